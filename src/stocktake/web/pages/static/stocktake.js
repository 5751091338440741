// Makes pages live: hears which nodes changed, asks for the page again, and puts in what differs. Invariant: whatever is put
// in is what the server wrote; a page without this is whole, only still.
"use strict";
(() => {
  const [kind, own] = document.body.dataset.live.split(" ");
  const status = document.getElementById("live");
  // A page of more tiles is not asked for whole more often than that.
  const MANY = 300, SOON_MS = 200, LATER_MS = 10000;
  let source = null, timer = 0, due = 0, asking = false, again = false;

  const read = async (address) => {
    const answer = await fetch(address, { headers: { Accept: "text/html" }, cache: "no-store" });
    // The token is no good any more: the page itself is led to where one signs in.
    if (answer.redirected) { location.reload(); throw new Error("signed out"); }
    if (!answer.ok) throw new Error(String(answer.status));
    return new DOMParser().parseFromString(await answer.text(), "text/html");
  };

  const keep = (before, after) => {
    for (const open of before.querySelectorAll("details[open] > [id]")) {
      const same = after.querySelector("#" + CSS.escape(open.id));
      if (same) same.parentElement.open = true;
    }
  };

  const renew = async () => {
    if (asking) { again = true; return; }
    asking = true;
    try {
      const page = await read(location.pathname + location.search);
      rove(page);
      for (const region of document.querySelectorAll("[data-region]")) {
        const fresh = page.getElementById(region.id);
        if (!fresh) continue;
        keep(region, fresh);
        if (region.isEqualNode(fresh)) continue;
        const focused = region.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
        region.replaceWith(document.adoptNode(fresh));
        if (focused) fresh.querySelector(`[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
      }
      say("live");
    } catch {
      say("can't be reached, trying again");
    }
    asking = false;
    if (again) { again = false; soon(LATER_MS); }
  };

  const soon = (wait) => {
    const then = Date.now() + wait;
    if (timer && due <= then) return;
    clearTimeout(timer);
    due = then;
    timer = setTimeout(() => { timer = 0; renew(); }, wait);
  };

  const patch = async (nodes) => {
    const query = new URLSearchParams(location.search);
    for (const node of nodes) query.append("node", node);
    const page = await read("/tiles?" + query);
    for (const node of nodes) {
      const there = `a[href="/nodes/${CSS.escape(node)}"]`;
      const old = document.querySelector("#tiles " + there), fresh = page.querySelector(there);
      if (old && fresh) {
        fresh.tabIndex = old.tabIndex;
        old.replaceWith(document.adoptNode(fresh));
      } else if (old || fresh) {
        soon(SOON_MS);
      }
    }
    soon(LATER_MS);
  };

  const heard = (nodes) => {
    if (kind === "node") {
      if (nodes === "many" || nodes.includes(own)) soon(0);
    } else if (kind === "fleet" && document.querySelectorAll("#tiles a").length > MANY) {
      if (nodes === "many") soon(LATER_MS);
      else patch(nodes).catch(() => soon(LATER_MS));
    } else {
      soon(SOON_MS);
    }
  };

  const say = (text) => { if (status.textContent !== text) status.textContent = text; };

  const listen = () => {
    if (!kind || source) return;
    source = new EventSource("/live");
    // What changed before is in no event.
    source.addEventListener("ready", () => soon(0));
    source.onmessage = (event) => heard(JSON.parse(event.data));
    source.onerror = () => {
      say("not live, trying again");
      // One that the server refused is not tried again by itself; the page asks why, and may have to sign in.
      if (source.readyState === EventSource.CLOSED) { source = null; soon(0); setTimeout(listen, LATER_MS); }
    };
  };

  // Arrows go from tile to tile, so that Tab leads past a group, not through it.
  const rove = (page) => {
    for (const group of page.querySelectorAll(".tiles")) {
      [...group.children].forEach((tile, index) => { tile.tabIndex = index ? -1 : 0; });
    }
  };
  document.addEventListener("keydown", (event) => {
    const tile = event.target.closest?.(".tiles > a");
    if (!tile || event.ctrlKey || event.altKey || event.metaKey) return;
    const tiles = [...tile.parentElement.children], at = tiles.indexOf(tile);
    const row = tiles.filter((one) => one.offsetTop === tiles[0].offsetTop).length;
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, ArrowUp: at - row, ArrowDown: at + row, Home: 0, End: tiles.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    if (!tiles[to]) return;
    tile.tabIndex = -1;
    tiles[to].tabIndex = 0;
    tiles[to].focus();
  });

  // What a tile is, in words, beside the one that is pointed at; those who listen hear it from the tile itself.
  const hint = document.createElement("div");
  hint.className = "hint";
  hint.hidden = true;
  hint.setAttribute("aria-hidden", "true");
  document.body.append(hint);
  const point = (event) => {
    const tile = event.target.closest?.(".tiles > a");
    hint.hidden = !tile;
    if (!tile) return;
    hint.textContent = tile.getAttribute("aria-label");
    const box = tile.getBoundingClientRect(), below = box.bottom + 4;
    hint.style.left = Math.max(4, Math.min(box.left, window.innerWidth - hint.offsetWidth - 12)) + "px";
    hint.style.top = (below + hint.offsetHeight < window.innerHeight ? below : box.top - hint.offsetHeight - 4) + "px";
  };
  document.addEventListener("mouseover", point);
  document.addEventListener("focusin", point);
  document.addEventListener("scroll", () => { hint.hidden = true; }, { passive: true });

  // A link to why opens what it leads to.
  const reveal = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const closed = target && target.closest("details:not([open])");
    if (closed) { closed.open = true; target.scrollIntoView({ block: "center" }); target.focus({ preventScroll: true }); }
  };
  window.addEventListener("hashchange", reveal);

  // A page that nobody sees holds no connection: browsers have few to one server.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) { source?.close(); source = null; } else { listen(); }
  });
  window.addEventListener("pagehide", () => { source?.close(); source = null; });
  window.addEventListener("pageshow", listen);
  rove(document);
  reveal();
  listen();
})();
