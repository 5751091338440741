"""
The setting `adopt = "auto"`: guests that nobody promised become instances. Invariant: only what was adopted is let go.
"""

from collections.abc import Collection, Mapping

from stocktake.accounting.orphans import adopted
from stocktake.model.hypervisor import Guest, Host
from stocktake.refresh.context import Context
from stocktake.report.save import Books


def adopt(context: Context, hosts: Mapping[str, Host], books: Mapping[str, Books]) -> list[str]:
    """Make instances of the running guests that nobody promised (setting `adopt = "auto"`)."""
    instances = []
    for node, book in books.items():
        orphans = {entry.id for entry in book.tally.entries if entry.kind == "orphan"}
        known = {instance.uuid for instance in book.work.instances} | book.work.places.keys()
        guests: Collection[Guest] = hosts[node].guests or ()
        instances += [
            adopted(guest, host=context.rules.host, node=node, now=context.clock.now())
            for guest in guests
            if guest.uuid in orphans - known and guest.active
        ]
    if instances:
        context.ledger.put_instances(instances)
    return [instance.uuid for instance in instances]


def let_go(context: Context, hosts: Mapping[str, Host], books: Mapping[str, Books]) -> list[str]:
    """Delete the adopted instances whose guests the hypervisor no longer has: nobody else keeps their books."""
    gone: list[str] = []
    for node, book in books.items():
        guests = hosts[node].guests
        if guests is not None:
            there = {guest.uuid for guest in guests}
            gone += [one.uuid for one in book.work.instances if one.adopted and one.uuid not in there]
    if gone:
        context.ledger.delete_instances(gone)
    return gone
