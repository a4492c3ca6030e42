"""Where cells run: worker processes and what starts them."""
