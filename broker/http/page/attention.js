// What is wrong, the worst first, and who must act. What has one cause is told once. No DOM here.

import { conditionName, counted, isClosing, state, status } from "./format.js";

const RECENT = 3600 * 1000; // milliseconds for which a session that has ended is news

const WHO = {
  IB_CONN_001: "Nobody yet. Beyond some minutes: an operator, at the Gateway's login",
  IB_CONN_002: "Whoever holds the client id",
  IB_CONN_003: "Whoever can see the Gateway's screen",
  IB_CONN_004: "Whoever runs the network",
  IB_CONN_005: "A human at the Gateway",
  IB_CONN_006: "Whoever upgrades the Gateway",
};
const OVERDUE_001 = "An operator, at the Gateway's login";
const CONDITIONS = {
  UPSTREAM: ["wait", "Nobody here: IBKR's servers, or the Gateway's own network"],
  MARKET_DATA_FARM: ["wait", "Nobody: IBKR restores it"],
  HISTORICAL_DATA_FARM: ["wait", "Nobody: IBKR restores it"],
  SECDEF_FARM: ["wait", "Nobody: IBKR restores it"],
  WRITABLE: ["act", "An operator: untick Read-Only API in the Gateway's settings"],
  NO_COMPETING_LOGIN: ["act", "Whoever is logged in elsewhere with this user"],
  DATA_CONTINUOUS: ["act", "The owner: subscribe anew, and acknowledge"],
};
const ORDER = ["act", "wait", "note"];

// Returns items {key, level, title, who, code, message, hint, also, since, at, next, sessions}: level is
// "act" (somebody must), "wait" (it should pass by itself) or "note".
export function attention(model, now) {
  const items = [
    ...broker(model),
    ...model.gateways.flatMap((gateway) => [...ofGateway(gateway, model)]),
    ...failing(model),
    ...conditions(model),
    ...ended(model, now),
  ];
  return items.sort((one, other) => ORDER.indexOf(one.level) - ORDER.indexOf(other.level));
}

function* broker(model) {
  const reasons = model.health?.reasons ?? {};
  if (model.stopTime) {
    yield item("stopping", "note", "The broker is stopping", {
      who: "Nobody: the next broker takes the sessions up. If none comes: an operator starts it",
      next: model.stopTime,
      nextLabel: "ends",
    });
  }
  if (reasons.database) {
    yield item("database", "act", "The database is away", {
      who: "Whoever runs the database",
      message: reasons.database,
      hint: "Sessions live on; new ones are refused. What happens meanwhile is lost if the broker dies first.",
    });
  }
  if (reasons.lock) {
    yield item("lock", "act", "The database's lock is lost", {
      who: "Whoever runs the database",
      message: reasons.lock,
    });
  }
  if (model.gaps) {
    yield item("gaps", "act", `${counted(model.gaps, "event")} missing from the stream`, {
      who: "Whoever can report it: this is an error of the broker",
    });
  }
}

function* ofGateway(gateway, model) {
  const name = gateway.gateway_id;
  const sessions = [...model.sessions.values()].filter((session) => session.gateway_id === name);
  const waiting = sessions.filter((session) => state(session) !== "CONNECTED");
  const breaker = gateway.circuit_breaker.state.replace("CIRCUIT_BREAKER_STATE_", "");
  if (gateway.drain) {
    const held = waiting.filter((session) => isHeld(session, gateway));
    yield item(
      `drain/${name}`,
      held.length ? "act" : "note",
      `Gateway ${name} is drained by ${gateway.drain.actor}`,
      {
        who: `An operator: gateway-broker gateways resume ${name}`,
        message: gateway.drain.reason && `Reason: ${gateway.drain.reason}`,
        also: held.length
          ? "New sessions are refused, and those that have lost their link wait."
          : "New sessions are refused.",
        since: gateway.drain.drain_time,
        sessions: held,
      },
    );
  }
  if (gateway.reachable === false) {
    const failure = gateway.last_failure;
    const overdue = waiting.some((session) => isOverdue(model, session));
    const maintained = Boolean(gateway.maintenance_end_time);
    yield item(
      `gateway/${name}`,
      maintained ? "wait" : level(failure, overdue, waiting),
      `Gateway ${name} is unreachable`,
      {
        who: maintained ? "Nobody: it is in its maintenance window" : who(failure, overdue),
        code: failure?.reason,
        message: failure?.message,
        hint: failure?.hint,
        also: breaker === "OPEN" ? "The circuit is open: new sessions are refused." : null,
        since: first(waiting, "state_time"),
        next: gateway.next_attempt_time,
        sessions: waiting,
      },
    );
  } else if (breaker === "OPEN") {
    yield item(`breaker/${name}`, "wait", `The circuit of gateway ${name} is open`, {
      who: `Nobody; an operator saves the wait: gateway-broker gateways reset-breaker ${name}`,
      message: "New sessions are refused until it was tried again.",
      next: gateway.circuit_breaker.half_open_time,
      nextLabel: "half-opens",
    });
  }
}

// Sessions that fail for a reason of their own: their gateway answers.
function failing(model) {
  const gateways = new Map(model.gateways.map((gateway) => [gateway.gateway_id, gateway]));
  const groups = group(
    [...model.sessions.values()].filter(
      (session) =>
        state(session) !== "CONNECTED" &&
        !isClosing(session) &&
        session.last_failure &&
        gateways.get(session.gateway_id)?.reachable !== false &&
        !isHeld(session, gateways.get(session.gateway_id)),
    ),
    (session) => [session.gateway_id, session.last_failure.reason, session.last_failure.hint],
  );
  return groups.map(([key, sessions]) => {
    const failure = sessions[0].last_failure;
    const overdue = sessions.some((session) => isOverdue(model, session));
    return item(`failing/${key}`, level(failure, overdue, sessions), `${named(sessions)} cannot connect`, {
      who: who(failure, overdue),
      code: failure.reason,
      message: failure.message,
      hint: failure.hint,
      since: first(sessions, "state_time"),
      next: first(sessions, "next_attempt_time"),
      sessions,
    });
  });
}

// Whether a session has not been connected for longer than it should.
function isOverdue(model, session) {
  return Boolean(model.overdue.get(session.session_id)?.size) && state(session) !== "CONNECTED";
}

// Whether a session waits for an operator to resume its gateway.
function isHeld(session, gateway) {
  return Boolean(gateway?.drain) && state(session) === "RECONNECTING" && !session.next_attempt_time;
}

function conditions(model) {
  const facts = [...model.sessions.values()].flatMap((session) =>
    session.conditions.filter((fact) => status(fact) === "FALSE").map((fact) => ({ session, fact })),
  );
  const groups = group(facts, ({ session, fact }) => [session.gateway_id, conditionName(fact), fact.reason]);
  return groups.map(([key, told]) => {
    const { fact } = told[0];
    const sessions = told.map(({ session }) => session);
    const [usual, whose] = CONDITIONS[fact.type] ?? ["act", "An operator"];
    const overdue = sessions.some((session) =>
      model.overdue.get(session.session_id)?.has(conditionName(fact)),
    );
    const code = fact.tws_code ? ` (${fact.tws_code})` : "";
    return item(
      `condition/${key}`,
      overdue ? "act" : usual,
      `${conditionName(fact)} is FALSE for ${named(sessions)}`,
      {
        who: overdue && usual === "wait" ? "An operator: it lasts longer than it should" : whose,
        message: `${fact.message || fact.reason}${code}`,
        since: told.map((one) => one.fact.transition_time).sort()[0],
        sessions,
      },
    );
  });
}

function ended(model, now) {
  const news = [...model.ended.values()].filter(
    (session) => now - Date.parse(session.disconnect_time ?? session.state_time) < RECENT,
  );
  const failed = group(
    news.filter((session) => state(session) === "FAILED"),
    (session) => [session.gateway_id, session.last_failure?.reason, session.last_failure?.hint],
  ).map(([key, sessions]) => {
    const failure = sessions[0].last_failure;
    return item(`failed/${key}`, "act", `${named(sessions)} failed for good`, {
      who: who(failure, true),
      code: failure?.reason,
      message: failure?.message,
      hint: failure?.hint,
      at: first(sessions, "state_time"),
      sessions,
    });
  });
  const expired = group(
    news.filter((session) => ["LEASE_EXPIRED", "GATEWAY_REMOVED"].includes(session.close_reason)),
    (session) => [session.close_reason, session.gateway_id],
  ).map(([key, sessions]) =>
    item(`ended/${key}`, "note", `${named(sessions)} ended: ${sessions[0].close_reason}`, {
      who:
        sessions[0].close_reason === "LEASE_EXPIRED"
          ? "The owner: does the program that opened it still run?"
          : "The owner: open it anew, on the gateway that is meant",
      at: first(sessions, "state_time"),
      sessions,
    }),
  );
  return [...failed, ...expired];
}

function item(key, itemLevel, title, more) {
  const sessions = (more.sessions ?? []).map((session) => session.session_id);
  return { key, level: itemLevel, title: title[0].toUpperCase() + title.slice(1), ...more, sessions };
}

function level(failure, overdue, sessions) {
  if (overdue || failure?.retryable === false) return "act";
  const again = sessions.some((session) => session.attempt >= 2);
  return again && ["IB_CONN_003", "IB_CONN_004", "IB_CONN_005"].includes(failure?.reason) ? "act" : "wait";
}

function who(failure, overdue) {
  if (overdue && failure?.reason === "IB_CONN_001") return OVERDUE_001;
  return WHO[failure?.reason] ?? "An operator";
}

function named(sessions) {
  const [one] = sessions;
  return sessions.length === 1
    ? `client ${one.client_id} on ${one.gateway_id} (${one.owner})`
    : `${counted(sessions.length, "session")} on ${one.gateway_id}`;
}

function first(sessions, field) {
  return sessions
    .map((session) => session[field])
    .filter(Boolean)
    .sort()[0];
}

function group(items, key) {
  const groups = new Map();
  for (const one of items) {
    const name = JSON.stringify(key(one));
    groups.set(name, [...(groups.get(name) ?? []), one]);
  }
  return [...groups];
}
