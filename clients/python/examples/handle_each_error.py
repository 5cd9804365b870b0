"""What can go wrong with an open, and who can do something about it.

python handle_each_error.py 127.0.0.1:50051
"""

from __future__ import annotations

import asyncio
import sys

from ibgateway.client import (
    AuthenticationError,
    Broker,
    BrokerError,
    BrokerUnreachableError,
    CircuitBreakerOpenError,
    ClientIDInUseError,
    ClientIdsExhaustedError,
    GatewayDrainingError,
    GatewayError,
    GatewayNotFoundError,
    IncompatibleVersionError,
    InvalidArgumentError,
    SessionEndedError,
    SessionLimitError,
    connect,
)


async def attempt(broker: Broker, *, client_id: int, gateway_id: str = "") -> None:
    """Open a session and close it; say what came of it."""
    try:
        async with broker.open_session(
            gateway_id=gateway_id, client_id=client_id, max_attempts=2, timeout=60
        ) as session:
            print(f"opened {session.session_id} with client id {session.client_id}")
    except ClientIDInUseError as error:
        print(f"another program has the id: {error}")
    except (AuthenticationError, IncompatibleVersionError) as error:
        print(f"call a human, no retry will help: {error}")
    except GatewayError as error:
        print(f"the Gateway is away ({error.phase}); the broker has tried for you: {error}")
    except (CircuitBreakerOpenError, GatewayDrainingError) as error:
        print(f"not now; ask again in {error.retry_after} s: {error}")
    except (SessionLimitError, ClientIdsExhaustedError) as error:
        print(f"nothing is free, close something: {error}")
    except (InvalidArgumentError, GatewayNotFoundError) as error:
        print(f"this program has a bug: {error}")
    except SessionEndedError as error:
        print(f"somebody has ended it ({error.close_reason}): {error}")
    except BrokerUnreachableError as error:
        print(f"no broker; whether it has done anything is unknown: {error}")
    except BrokerError as error:
        print(f"another error, retryable: {error.retryable}: {error}")


async def main(address: str) -> None:
    """Succeed once, and fail in two ways."""
    async with connect(address, owner="example") as broker:
        await attempt(broker, client_id=13)
        await attempt(broker, client_id=13, gateway_id="nowhere")
        await attempt(broker, client_id=100_000)
    async with connect("127.0.0.1:1", backoff=None) as nobody:
        await attempt(nobody, client_id=13)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
