"""How long a test waits for what it knows will come."""

PATIENCE = 30  # s until a test that waits has failed; many run side by side, and each may have to wait for the others
