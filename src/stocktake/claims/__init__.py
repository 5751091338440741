"""
Claims: room allocated before a machine is built, settled or given back. Invariant: one transaction on the node's row,
or nothing.

A claim is pending until somebody settles it (`keep`, `finish`, or the guest that appears) and is given back by itself
otherwise. See docs/howto/claims.md and docs/accounting.md, "Claims".
"""

from stocktake.claims.claims import Claims
from stocktake.claims.nouns import AnyClaims, Claimed, ClaimRules, Refused, Request
from stocktake.claims.pending import building, moving

__all__ = ["AnyClaims", "ClaimRules", "Claimed", "Claims", "Refused", "Request", "building", "moving"]
