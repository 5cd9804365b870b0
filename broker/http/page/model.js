// What is known: the fold of the stream, by the rules of docs/watching.md. No DOM here.

import { conditionName, isFinal } from "./format.js";

const EVENTS = 500;
const ENDED = 50;

export class Model {
  broker = null;
  health = null;
  gateways = [];
  sessions = new Map(); // those that are not final, by id
  ended = new Map(); // the last of the others
  events = []; // newest first
  overdue = new Map(); // session_id -> what of it lasts too long: its state, conditions
  stopTime = null; // when the broker stops, while it says so
  gaps = 0; // events that are missing: never, unless the broker errs
  complete = false; // whether there is a whole picture

  #incoming = null;

  // Returns whether the stream must begin anew: what it told last may never have happened.
  accept(kind, data) {
    switch (kind) {
      case "broker":
        return this.#welcome(data);
      case "health":
        this.health = data;
        break;
      case "gateways":
        this.gateways = data.gateways.map((gateway) => this.#steady(gateway));
        break;
      case "past":
        for (const message of data.messages) this.#remember(message.event);
        break;
      case "watch":
        this.#watched(data);
        break;
    }
    return false;
  }

  // A time that is computed anew with each answer is the same time, but for a few milliseconds.
  #steady(gateway) {
    const known = this.gateways.find((one) => one.gateway_id === gateway.gateway_id);
    const keep = (fresh, old, field) => {
      if (Math.abs(Date.parse(fresh?.[field]) - Date.parse(old?.[field])) < 500) fresh[field] = old[field];
    };
    keep(gateway, known, "next_attempt_time");
    keep(gateway.circuit_breaker, known?.circuit_breaker, "half_open_time");
    return gateway;
  }

  #welcome(broker) {
    const other = this.broker !== null && this.broker.instance !== broker.instance;
    this.broker = broker;
    this.stopTime = null;
    return other && this.events.some((event) => !event.persisted);
  }

  #watched(message) {
    if (message.reset) {
      this.#incoming = null;
    } else if (message.snapshot) {
      this.#incoming ??= new Map();
      this.#incoming.set(message.snapshot.session_id, message.snapshot);
    } else if (message.snapshot_complete) {
      this.sessions = this.#incoming ?? new Map();
      this.#incoming = null;
      this.ended = new Map();
      this.events = [];
      this.overdue = new Map();
      this.complete = true;
    } else if (message.event) {
      this.#happened(message.event);
    } else if (message.draining) {
      this.stopTime = message.draining.stop_time;
    }
  }

  #happened(event) {
    const known = this.sessions.get(event.session_id);
    // What is kept now may have been told before it was.
    if (known && Number(event.sequence) > Number(known.sequence) + 1) this.gaps += 1;
    if (!known || Number(event.sequence) >= Number(known.sequence)) {
      if (isFinal(event.session)) {
        this.sessions.delete(event.session_id);
      } else if (!this.ended.has(event.session_id)) {
        this.sessions.set(event.session_id, event.session);
      }
    }
    this.#remember(event);
  }

  // What an event says of how long something lasts.
  #time({ session_id: id, notice, transition, condition }) {
    if (["OVERDUE", "MAINTENANCE_OVERRUN"].includes(notice?.reason)) {
      this.overdue.set(id, (this.overdue.get(id) ?? new Set()).add(notice.subject));
    } else if (transition) {
      this.overdue.delete(id);
    } else if (condition) {
      this.overdue.get(id)?.delete(conditionName(condition));
    }
  }

  // An event for the list, and what it says of sessions that have ended.
  #remember(event) {
    const again = this.events.findIndex(
      (told) => told.session_id === event.session_id && told.sequence === event.sequence,
    );
    if (again >= 0) {
      this.events[again] = event;
    } else {
      this.events.unshift(event);
      this.events.length = Math.min(this.events.length, EVENTS);
    }
    this.#time(event);
    if (isFinal(event.session)) {
      this.ended.delete(event.session_id);
      this.ended.set(event.session_id, event.session);
      if (this.ended.size > ENDED) this.ended.delete(this.ended.keys().next().value);
    }
  }
}
