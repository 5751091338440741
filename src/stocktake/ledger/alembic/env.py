"""Run the schema's scripts on the connection that `stocktake.ledger.schema` hands over, in its transaction."""

from alembic import context

from stocktake.ledger.tables import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
with context.begin_transaction():
    context.run_migrations()
