// The page: one stream, one model, drawn whenever something is new.

import { clock, moment, setClock, span } from "./format.js";
import { History } from "./history.js";
import { Model } from "./model.js";
import { tick } from "./pieces.js";
import { Stream } from "./stream.js";
import { renderAttention, renderEvents, renderGateways, renderSessions } from "./view.js";

const DRAW = 60; // milliseconds between two drawings at least
const STATES = {
  "": null,
  open: ["CONNECTING", "CONNECTED", "RECONNECTING"],
  troubled: ["CONNECTING", "RECONNECTING", "FAILED"],
  ended: ["FAILED", "DISCONNECTED"],
};

const $ = (id) => document.getElementById(id);
const model = new Model();
const history = new History();
const filter = { text: "", states: null };
const link = { live: false, why: "", at: null, lostAt: Date.now(), ever: false, broken: false };
let drawing = null;

const stream = new Stream("api/watch", deliver, linkChanged);

function deliver(kind, data) {
  if (kind === "health") setClock(data.time);
  if (kind === "broker" && model.broker && model.broker.version !== data.version) location.reload();
  if (model.accept(kind, data)) stream.beginAnew();
  if (data.snapshot_complete) history.reload(model);
  draw();
}

function linkChanged({ live, why = "", at = null }) {
  if (link.broken) return;
  if (!live && link.live) link.lostAt = stream.heard;
  Object.assign(link, { live, why, at, ever: link.ever || live });
  drawLink();
}

function draw() {
  drawing ??= setTimeout(() => {
    drawing = null;
    if (!model.complete) return;
    const items = renderAttention(model);
    renderGateways(model, items);
    renderSessions(model, filter);
    if (!$("pause").checked) renderEvents(model, filter);
    history.render(model);
    drawBroker();
    drawTitle(items.filter((one) => one.level === "act").length);
    $("main").hidden = false;
  }, DRAW);
}

function drawBroker() {
  const { broker } = model;
  if (!broker) return;
  $("broker").textContent = `${broker.version}, up since ${moment(broker.start_time)}`;
  $("broker").title = `instance ${broker.instance}, epoch ${broker.epoch}`;
}

function drawTitle(urgent) {
  const mark = link.live ? (urgent ? `(${urgent}) ` : "") : "DISCONNECTED: ";
  document.title = `${mark}gateway-broker`;
}

// Whether what is on the page is true just now is the first thing that it says.
function drawLink() {
  const heard = Math.max(Date.now() - stream.heard, 0);
  document.body.classList.toggle("stale", !link.live);
  $("link").dataset.live = String(link.live);
  $("link").textContent = link.live ? (heard < 3000 ? "Live" : `Quiet for ${span(heard)}`) : "Disconnected";
  $("banner").hidden = link.live;
  if (link.live) return;
  drawTitle(0);
  const why = model.stopTime && !link.broken ? `it was stopping, and ${link.why}` : link.why;
  const next = link.broken
    ? ""
    : link.at === null
      ? "Trying now."
      : `Trying again in ${Math.max(Math.ceil((link.at - Date.now()) / 1000), 0)} s.`;
  const asOf = link.ever
    ? `What you see is as of ${clock(link.lostAt)}, ${span(Date.now() - link.lostAt)} ago: it may be wrong now. `
    : "";
  const title = link.broken
    ? "This page has failed"
    : link.ever
      ? "Disconnected from the broker"
      : "Connecting to the broker";
  // Text that changes each second is not for a screen reader: the reason alone is announced.
  if ($("banner-title").textContent !== title) $("banner-title").textContent = title;
  if ($("banner-why").textContent !== why) $("banner-why").textContent = why;
  $("banner-when").textContent = `${asOf}${link.why || link.ever ? next : ""}`;
}

// A page that has stumbled over itself must not look as if it were well.
function broken(why) {
  linkChanged({ live: false, why: `${why}. This is an error of the page: reload it, and report it.` });
  link.broken = true;
}

function openSession(sessionId) {
  location.hash = `session=${sessionId}`;
}

function followHash() {
  const found = /^#session=([0-9a-f-]{36})$/.exec(location.hash);
  if (found) history.open(found[1], model);
  else history.close();
}

function closeHistory() {
  location.hash = "";
  history.close();
}

function listen() {
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-session]");
    if (button) openSession(button.dataset.session);
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches("input, select");
    if (event.key === "Escape") {
      if (history.sessionId !== null) closeHistory();
      else if (event.target === $("filter")) {
        $("filter").value = filter.text = "";
        draw();
      }
    } else if (event.key === "/" && !typing) {
      event.preventDefault();
      $("filter").focus();
    }
  });
  $("filter").addEventListener("input", () => {
    filter.text = $("filter").value.trim();
    draw();
  });
  $("states").addEventListener("change", () => {
    filter.states = STATES[$("states").value];
    draw();
  });
  $("pause").addEventListener("change", draw);
  $("history-close").addEventListener("click", closeHistory);
  $("history-more").addEventListener("click", () => history.more(model));
  addEventListener("hashchange", followHash);
}

$("noscript").hidden = true;
addEventListener("error", (event) => broken(event.message));
addEventListener("unhandledrejection", (event) => broken(String(event.reason)));
listen();
drawLink();
followHash();
setInterval(() => {
  // Times stand still while nothing is known.
  if (link.live) tick();
  drawLink();
}, 1000);
void stream.run();
