"""Who holds which client id and how many seats are taken, without I/O; time is an argument, in
seconds.

The Gateway's rules as far as they are known: a client id belongs to one connection; one that ended
without a FIN keeps its id for a while; each client id has its own sequence of order ids.
"""

from collections import Counter
from collections.abc import Set as AbstractSet

from broker.simulator.journal import Statistics
from broker.simulator.protocol import MAX_CLIENT_ID


class Registry:
    """Client ids, seats and order ids of one simulated Gateway."""

    MAX_HELD = 1000

    def __init__(self, seats: int, first_order_id: int, statistics: Statistics) -> None:
        self._seats = seats
        self._first_order_id = first_order_id
        self._holders: dict[int, set[int]] = {}
        self._held_until: dict[int, float] = {}
        self._claims: Counter[int] = Counter()
        self._order_ids: dict[int, int] = {}
        self._open: set[int] = set()
        self._statistics = statistics

    def take_seat(self, connection: int, now: float) -> bool:
        """Seat a new connection; False if all seats are taken.

        Assumed: every open connection takes a seat, and so does an id that is held for a vanished
        one.
        """
        if len(self._open) + len(self.held(now).keys() - self._holders) >= self._seats:
            return False
        self._open.add(connection)
        return True

    def leave_seat(self, connection: int) -> None:
        """Free the seat of a connection that ended."""
        self._open.discard(connection)

    def claim(self, client_id: int, connection: int, now: float) -> bool:
        """Ask for a client id; False if another connection holds it or it is held after one.
        Release it either way.
        """
        self._claims[client_id] += 1
        most = self._statistics.max_claims
        most[client_id] = max(most[client_id], self._claims[client_id])
        if client_id in self._holders or client_id in self.held(now):
            return False
        holders = self._holders.setdefault(client_id, set())
        holders.add(connection)
        most = self._statistics.max_holders
        most[client_id] = max(most[client_id], len(holders))
        return True

    def withdraw(self, client_id: int, connection: int) -> None:
        """Take back a granted id from a connection that is turned away all the same; its claim goes
        on.
        """
        if connection in self._holders.get(client_id, ()):
            del self._holders[client_id]

    def release(self, client_id: int, connection: int, now: float, hold: float) -> None:
        """End a claim; if it was granted, the id stays held for `hold` seconds."""
        self._claims[client_id] -= 1
        if not self._claims[client_id]:
            del self._claims[client_id]
        if connection in self._holders.get(client_id, ()):
            del self._holders[client_id]
            if hold > 0:
                self._held_until[client_id] = now + hold

    def ghost(self, client_id: int, now: float, seconds: float) -> None:
        """Hold an id for so long, whether a connection has it or not; 0 frees it. Raises ValueError
        for what is no id or no duration, and if MAX_HELD ids are held.
        """
        if not 0 <= client_id <= MAX_CLIENT_ID:
            raise ValueError(f"client_id is {client_id}, not 0 to {MAX_CLIENT_ID}")
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"the duration is {seconds} s, not 0 or more")
        held = self.held(now).keys()
        if client_id not in held and len(held) >= self.MAX_HELD:
            raise ValueError(f"{self.MAX_HELD} ids are held already")
        self.hold({client_id}, now + seconds)

    def hold(self, client_ids: AbstractSet[int], until: float) -> None:
        """Hold ids until then, however many."""
        self._held_until.update(dict.fromkeys(client_ids, until))

    def restart(self, next_order_id: int | None) -> None:
        """Forget which ids are held; a number also becomes the nextValidId of every id."""
        self._held_until = {}
        if next_order_id is not None:
            self._first_order_id, self._order_ids = next_order_id, {}

    def holders(self) -> frozenset[int]:
        """Client ids that a connection has."""
        return frozenset(self._holders)

    def held(self, now: float) -> dict[int, float]:
        """Client ids that are not free although no connection has them, and the seconds left."""
        self._held_until = {held: until for held, until in self._held_until.items() if until > now}
        return {held: until - now for held, until in self._held_until.items()}

    def next_order_id(self, client_id: int) -> int:
        """The nextValidId of a client id; it outlives connections."""
        return self._order_ids.get(client_id, self._first_order_id)

    def use_order_id(self, client_id: int, order_id: int) -> None:
        """Note that an order id was used: nextValidId moves past it, and never back."""
        self._order_ids[client_id] = max(self.next_order_id(client_id), order_id + 1)
