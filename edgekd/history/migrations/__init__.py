"""How the tables of a history came to be, one file a step; alembic runs them."""
