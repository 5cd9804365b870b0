Feature: A session outlives its link
  Whatever becomes of the Gateway, the session stays the same one, goes on by itself, and
  says all the while what is wrong.

  Background:
    Given a Gateway
    And a broker in front of it

  Scenario: nightly restart
    Given 3 sessions that are connected, and somebody who watches
    When the Gateway restarts as every night
    Then each session is told that the servers are lost, and then loses its link with IB_CONN_001
    And nobody waits in silence: each session says when it dials again
    And each session is connected again, as the same one under the same client id
    And each session says that its data are no longer continuous
    And no session has failed

  Scenario: hung Gateway
    Given a session that is connected, and somebody who watches
    When the Gateway no longer answers
    Then without anybody asking, the session is RECONNECTING for HEARTBEAT_UNANSWERED
    When the Gateway answers again
    Then each session is connected again, as the same one under the same client id

  Scenario: ghost of its own id
    Given a session that is connected, and somebody who watches
    When the link breaks, and the Gateway holds the client id for another 0.5 seconds
    Then the session says that its own last connection still has the id
    And each session is connected again, as the same one under the same client id

  Scenario: farm flap
    Given a session that is connected, and somebody who watches
    When a market data farm flaps 20 times
    Then the watcher is told of each change of MARKET_DATA_FARM/usfarm, the last is TRUE
    And the session never lost its link

  Scenario: weekend without login
    Given 3 sessions that are connected, and somebody who watches
    When the Gateway goes away
    And every session has dialled 10 times in vain
    And the Gateway is back, but waits for somebody to accept the paper trading disclaimer
    Then each session asks for a human
    When a human has accepted it
    Then each session is connected again, as the same one under the same client id
    And no session has failed

  Scenario: drain
    Given a session that is connected, and somebody who watches
    When an operator drains the gateway for "an upgrade"
    Then the watcher is told GATEWAY_DRAINING
    When a service opens a session
    Then the open is refused with GATEWAY_DRAINING
    When the link breaks
    Then the session is RECONNECTING for PEER_CLOSED
    And the session says that an operator must resume the gateway, and does not dial
    When an operator resumes the gateway
    Then the watcher is told GATEWAY_RESUMED
    And each session is connected again, as the same one under the same client id
