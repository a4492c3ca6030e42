"""The parts that methods are composed from, one idea a file."""
