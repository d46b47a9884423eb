"""The directed tests notice each rule that is taken away."""

from __future__ import annotations

import unittest
from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from proxyrelay.cluster import node as node_module
from proxyrelay.cluster.claims import Claims
from proxyrelay.cluster.codec import Kick
from proxyrelay.cluster.node import Node
from proxyrelay.switchboard.broker import Broker
from proxyrelay.switchboard.offers import Offer
from tests.cluster import test_node


def _any_number(self: Node, source: str, target: str, _number: int) -> Offer | None:
    return self._relay.broker.table.find(source, target)


def _kick_by_uuid(self: Claims, kick: Kick) -> None:
    peer = self._relay.registry.get(kick.uuid)
    if peer is not None:
        self._supersede(peer, False)


def _nothing(*_: Any) -> None:
    pass


def _believe_the_record(self: Claims, *question: Any) -> None:
    question[-1](True)


class MutantTests(SynchronousTestCase):
    """One rule less, and the test that fails then."""

    def expect_failure(self, case: type[unittest.TestCase], name: str) -> None:
        result = unittest.TestResult()
        case(name).run(result)
        self.assertFalse(result.wasSuccessful(), name)

    def test_mutant_without_the_number_of_an_offer_is_caught(self) -> None:
        self.patch(Node, "_mine", _any_number)
        self.expect_failure(
            test_node.FaultTests,
            "test_answer_to_a_given_up_offer_does_not_pass_for_another",
        )

    def test_mutant_without_the_tie_break_is_caught(self) -> None:
        receive: Callable[..., Any] = Broker.receive_offer

        def without_tie_break(self: Broker, *message: Any) -> Any:
            _, offer, _ = message
            own = self.table.find(offer.target, offer.source)
            if own is not None:
                self.table.close(own)
            return receive(self, *message)

        self.patch(Broker, "receive_offer", without_tie_break)
        self.expect_failure(
            test_node.CrossingTests, "test_crossing_offers_leave_that_of_the_lower_uuid"
        )

    def test_mutant_that_kicks_by_uuid_is_caught(self) -> None:
        self.patch(Claims, "kick", _kick_by_uuid)
        self.expect_failure(
            test_node.ClaimTests,
            "test_kick_of_an_older_connection_spares_the_newer_one",
        )

    def test_mutant_that_asserts_nothing_is_caught(self) -> None:
        self.patch(Claims, "_next_batch", _nothing)
        self.expect_failure(test_node.FaultTests, "test_emptied_engine_is_filled_again")

    def test_mutant_without_the_age_is_caught(self) -> None:
        self.patch(node_module, "LATE_US", 1 << 60)
        self.expect_failure(
            test_node.FaultTests, "test_offer_that_lay_in_a_stopped_node_comes_back"
        )

    def test_mutant_that_believes_records_is_caught(self) -> None:
        self.patch(Claims, "_ask", _believe_the_record)
        self.expect_failure(
            test_node.ClaimTests,
            "test_stale_record_of_a_connection_that_is_gone_closes_nobody",
        )

    def test_mutant_that_sends_again_without_end_is_caught(self) -> None:
        returned: Callable[..., Any] = Node._returned

        def again(self: Node, message: Any) -> None:
            offer = self._relay.broker.table.find(message.source, message.target)
            if offer is not None and self.returns.get("gone", 0) < 100:
                offer.is_sent_again = False
            returned(self, message)

        self.patch(Node, "_returned", again)
        self.expect_failure(
            test_node.FaultTests, "test_wrong_records_return_an_offer_twice_at_most"
        )
