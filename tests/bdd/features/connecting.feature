Feature: A service connects through the broker
  The broker opens a session for it, or says at once what is wrong, what it does about it
  and who must act.

  Background:
    Given a Gateway
    And a broker in front of it
    And somebody who watches

  Rule: Nobody is told that he is connected before he is

    Scenario: successful_connection
      When a service opens a session
      Then the session is connected
      And it has an identity, a client id and an account
      And the watcher saw it go "DISCONNECTED, CONNECTING, CONNECTED"

  Rule: What trying again cannot mend is not tried again

    Scenario: authentication_error
      Given the Gateway waits for somebody to accept the paper trading disclaimer
      When a service opens a session
      Then the open fails with IB_CONN_005
      And the hint names "A human must accept the paper trading disclaimer"
      And the Gateway was dialled 1 time
      And the watcher saw it go "DISCONNECTED, CONNECTING, FAILED"

    Scenario: version_mismatch
      Given the Gateway speaks a version that is too old
      When a service opens a session
      Then the open fails with IB_CONN_006
      And the hint names "an operator must install a current IB Gateway"
      And the Gateway was dialled 1 time
      And the watcher saw it go "DISCONNECTED, CONNECTING, FAILED"

  Rule: A client id has one owner

    Scenario: client_id_conflict
      Given another program is connected as client 7
      When a service opens a session as client 7
      Then the session is connected
      And it has client id 8, and says that this was changed
      And the other program is still connected

    Scenario: an id that must not change
      Given another program is connected as client 7
      When a service opens a session as client 7 and no other
      Then the open fails with IB_CONN_002
      And the hint names "use another id"
      And the other program is still connected

  Rule: Nobody waits for ever

    Scenario: connection_timeout
      Given the Gateway accepts connections and says nothing
      When a service opens a session and allows 0.3 seconds for an attempt, and one attempt
      Then the open fails with IB_CONN_003
      And the hint names "The Gateway hangs"
      And it took between 0.3 and 3 seconds
      And the watcher saw it go "DISCONNECTED, CONNECTING, FAILED"

  Rule: A Gateway that fails again and again is left alone by newcomers

    Scenario: circuit_breaker_open
      Given nothing listens on the Gateway's port
      When a service opens a session and allows 5 attempts
      Then the open fails with IB_CONN_001
      And the circuit is OPEN
      When a service opens a session
      Then the open is refused with CIRCUIT_OPEN and the time to come back
      And no session was made for it
      When the Gateway listens again
      And the circuit is HALF_OPEN after a while
      And a service opens a session
      Then the session is connected
      And the circuit is HALF_OPEN
      When a service opens a session
      Then the session is connected
      And the circuit is CLOSED
