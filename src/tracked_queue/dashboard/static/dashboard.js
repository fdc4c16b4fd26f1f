// Looks again by itself, after the answer and not by the clock; never while the page is hidden, and never at a place that is in use.
"use strict";
(() => {
  const body = document.body;
  const floor = Number(body.dataset.floor) || 2;
  const updated = document.getElementById("updated");
  const poll = document.getElementById("poll");
  const isProblem = Boolean(document.querySelector("[data-problem='503']"));
  const isLive = isProblem || document.querySelectorAll("[data-live]").length > 1;
  let every = 5, failures = 0, timer = 0, last = Date.now(), isAway = false, isAsking = false, isHeld = false;

  // What was said after an act is said once.
  const here = new URL(location.href);
  if (here.searchParams.has("told")) {
    here.searchParams.delete("told");
    history.replaceState(null, "", here);
  }

  const keep = (value) => { try { if (value === undefined) return localStorage.getItem("every"); localStorage.setItem("every", value); } catch (_) { /* not allowed here */ } return null; };

  function busy(region) {
    const active = document.activeElement;
    if (active && active !== body && region.contains(active) && !(active.classList.contains("wide"))) return true;
    if (region.querySelector("details[open], input:checked, select:focus, dialog[open]")) return true;
    const chosen = document.getSelection();
    if (chosen && !chosen.isCollapsed && chosen.rangeCount && (region.contains(chosen.anchorNode) || region.contains(chosen.focusNode))) return true;
    const field = region.querySelector("input:not([type=checkbox]):not([type=hidden])");
    return Boolean(field && field.value !== field.defaultValue);
  }

  function replace(fresh) {
    isHeld = false;
    for (const region of document.querySelectorAll("[data-live]")) {
      if (region.id === "updated") continue;
      const next = fresh.querySelector(`[data-live="${CSS.escape(region.dataset.live)}"]`);
      if (!next || next.innerHTML === region.innerHTML) continue;
      if (busy(region)) { isHeld = true; continue; }
      const scrolled = [...region.querySelectorAll(".wide")].map((one) => one.scrollLeft);
      const had = document.activeElement && document.activeElement.classList.contains("wide") && region.contains(document.activeElement)
        ? [...region.querySelectorAll(".wide")].indexOf(document.activeElement) : -1;
      region.className = next.className;
      if (next.dataset.fast) region.dataset.fast = "1"; else delete region.dataset.fast;
      region.replaceChildren(...[...next.childNodes].map((one) => document.importNode(one, true)));
      const wide = [...region.querySelectorAll(".wide")];
      wide.forEach((one, at) => { one.scrollLeft = scrolled[at] || 0; });
      if (had >= 0 && wide[had]) wide[had].focus({ preventScroll: true });
    }
  }

  function tell() {
    if (!updated) return;
    const ago = Math.round((Date.now() - last) / 1000);
    const isLate = isAway || (every && isAsking && ago > 2 * Math.max(every, floor) + 2);
    const text = isLate ? `No answer. Showing the state of ${ago} s ago.`
      : `Updated ${ago < 1 ? "now" : `${ago} s ago`}${every ? "" : "; auto-refresh off"}${isHeld ? "; what you have open or selected is kept as it was" : ""}`;
    if (updated.textContent !== text) updated.textContent = text;
    updated.classList.toggle("away", isLate);
  }

  function later() {
    clearTimeout(timer);
    if (!every || document.hidden) return;
    const wait = Math.max(document.querySelector("[data-fast]") ? 0 : every, floor) * Math.min(8, 2 ** failures) * (0.9 + Math.random() / 5);
    timer = setTimeout(look, wait * 1000);
  }

  async function look() {
    if (isAsking || document.hidden) return;
    isAsking = true;
    const stop = new AbortController();
    const giveUp = setTimeout(() => stop.abort(), 15000);
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" }, credentials: "same-origin", signal: stop.signal, cache: "no-store" });
      const text = await answer.text();
      if (answer.redirected && new URL(answer.url).pathname.endsWith("/login")) { location.reload(); return; }
      if (answer.ok) {
        if (isProblem) { location.reload(); return; }
        replace(new DOMParser().parseFromString(text, "text/html"));
        failures = 0; isAway = false; last = Date.now();
      } else if (answer.status === 404) {
        every = 0;
        if (updated) { updated.textContent = "No longer there. Last known state:"; clearInterval(teller); }
      } else { failures += 1; isAway = true; }
    } catch (_) { failures += 1; isAway = true; } finally {
      clearTimeout(giveUp);
      isAsking = false;
      body.classList.toggle("stale", isAway);
      tell();
      later();
    }
  }

  const teller = setInterval(tell, 1000);
  if (isLive) {
    const kept = Number(keep());
    if (keep() !== null && [0, 2, 5, 10, 30, 60].includes(kept)) every = kept;
    if (poll) {
      const label = document.createElement("label");
      label.textContent = "Refresh every ";
      const choice = document.createElement("select");
      for (const seconds of [2, 5, 10, 30, 60, 0]) {
        if (seconds && seconds < floor) continue;
        choice.append(new Option(seconds ? `${seconds} s` : "never", seconds, false, seconds === every));
      }
      choice.addEventListener("change", () => { every = Number(choice.value); keep(choice.value); if (every) look(); else later(); tell(); });
      label.append(choice);
      poll.append(label);
      poll.hidden = false;
    }
    document.addEventListener("visibilitychange", () => { if (document.hidden) clearTimeout(timer); else if (every) look(); });
    tell();
    later();
  }

  // Keys: / searches, ? shows the keys, g and a letter goes to a page.
  const keys = document.getElementById("keys");
  if (keys) keys.hidden = false;
  let went = 0;
  function help() {
    const dialog = document.createElement("dialog");
    const title = document.createElement("h2");
    title.textContent = "Keys";
    const list = document.createElement("ul");
    const lines = ["/ search", "? these keys", ...[...document.querySelectorAll(".pages a[data-key]")].map((one) => `g ${one.dataset.key} ${one.textContent}`)];
    for (const line of lines) { const item = document.createElement("li"); item.textContent = line; list.append(item); }
    const close = document.createElement("button");
    close.textContent = "Close";
    close.addEventListener("click", () => dialog.close());
    dialog.append(title, list, close);
    dialog.addEventListener("close", () => dialog.remove());
    body.append(dialog);
    dialog.showModal();
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, dialog")) return;
    if (event.key === "/") { const field = document.getElementById("q"); if (field) { event.preventDefault(); field.focus(); } }
    else if (event.key === "?") help();
    else if (event.key === "g") went = Date.now();
    else if (Date.now() - went < 1500) {
      const found = document.querySelector(`.pages a[data-key="${CSS.escape(event.key)}"]`);
      went = 0;
      if (found) found.click();
    }
  });

  // One box for all boxes of a table.
  for (const head of document.querySelectorAll("table thead th:first-child")) {
    const table = head.closest("table");
    if (!table.querySelector("tbody input[type=checkbox]")) continue;
    const all = document.createElement("input");
    all.type = "checkbox";
    all.ariaLabel = "Select all on this page";
    all.addEventListener("change", () => { for (const one of table.querySelectorAll("tbody input[type=checkbox]")) one.checked = all.checked; });
    head.append(all);
  }

  // Nothing is sent twice by an impatient second click.
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.method !== "post") return;
    if (form.dataset.sent) { event.preventDefault(); return; }
    form.dataset.sent = "1";
    setTimeout(() => { delete form.dataset.sent; }, 4000);
  });
})();
