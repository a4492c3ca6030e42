"""`python -m consistency_bench`: the `bench` command."""

# Absolute, since the subpackages are in other folders, where a type checker does not look for them.
from consistency_bench.benchmarks.cli.main import main  # pyright: ignore[reportMissingImports]

if __name__ == "__main__":
    main()
