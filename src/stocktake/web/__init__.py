"""
The fleet's front: an API and pages. Invariant: no state of its own; any number of copies on one ledger.

How to add to it:

- **A route** is one line in the list of its noun (`api/<noun>.py`: `ROUTES`), or of its room (`pages/`, `nova/`,
  `placement.py`); each list is one line in `routes.py`. Routing, who may, and the OpenAPI document are made of it:

      ROUTES = (
          route("GET", "/v1/nodes", listed, READERS),
          route("POST", "/v1/services/{host}/disable", disabled, OPERATORS),
          route("GET", "/", fleet_page, READERS, media="text/html", hidden=True),
      )

- **A handler** is `def listed(call: Call[NodesQuery, None]) -> Page[NodeSummary]`. Its signature is what is checked and
  documented: the query (a `Query`), the body (a noun; None for none) and the answer (a value, written as JSON). The
  docstring's first line is the summary, the rest the description. `call.web` has ledger, claims, settings, clock;
  `call.caller` is who asks; `call.path["host"]` a part of the path.
- A plain function runs in a thread and may block. An `async` one runs in the event loop and must not: it is for
  streams (server-sent events), and calls `call.blocking(...)` for the rest. Streams end when `call.stopping` is set.
- It may return a starlette `Response` of its own (HTML, a stream, a redirect), `Reply` for another status or headers.
- **A "no"** is an error of `errors.py`, raised; `status.py` alone knows its HTTP status and writes problem+json.
  A room whose clients want errors in another form gives `route(..., errors=function)`.
- **Who may** is a set of roles: `ANYBODY` (not signed in), `READERS`, `OPERATORS`, `AGENTS` (agents and operators).
  An agent's own host is all that it gets: a `{host}` in the path is checked by the dispatcher; for every other host
  whose rows it touches a handler asks `call.caller.must_own(host)`.
- Everything that is not GET or HEAD is written to the audit log (`stocktake.audit`) by the dispatcher.
- What is shown of the books (states, figures, summaries) is worked out in `stocktake.views`, for terminals too.
- Tests: `tests/servers/serve.py` starts a real server (`served`), or the same in this process (`served_here`).
"""
