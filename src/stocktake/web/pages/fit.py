"""
`/fit`: where a machine would go, and why not elsewhere. Invariant: the question is in the address; nothing is
promised.
"""

from typing import Any

from starlette.responses import Response

from stocktake.claims.candidates import candidates
from stocktake.errors import InvalidInput, NotFound
from stocktake.views.finding import find_node
from stocktake.views.fitting import FitAnswer, answer_of, wanted_of
from stocktake.web.calls import READERS, Call, route
from stocktake.web.pages.asking import Asked, flavor_of, words
from stocktake.web.pages.frame import MEDIA, page, refused, refused_here

# So many nodes are shown of those that fit, and of the others.
SHOWN_MAX = 200
_EMPTY = Asked()


def fit(call: Call[Asked, None]) -> Response:
    """Show the form, and the answer if something was asked."""
    asked = call.query
    common: dict[str, Any] = {"asked": asked, "shown_max": SHOWN_MAX}
    if asked == _EMPTY:
        return page(call, "fit.html", answer=None, error=None, **common)
    try:
        answer = _answer(call)
    except (InvalidInput, NotFound) as error:
        return refused_here(call, error, "fit.html", answer=None, **common)
    return page(call, "fit.html", answer=answer, error=None, **common)


def _answer(call: Call[Asked, None]) -> FitAnswer:
    web, asked = call.web, call.query
    wanted = wanted_of(flavor_of(asked), web.settings, volume_backed=bool(asked.volume_backed))
    nodes = {find_node(web.ledger, name).uuid for name in words(asked.node)} or None
    found = candidates(web.ledger, web.settings, wanted, now=web.clock.now(), nodes=nodes, pack=asked.packs)
    return answer_of(wanted, found)


ROUTES = (route("GET", "/fit", fit, READERS, media=MEDIA, hidden=True, errors=refused),)
