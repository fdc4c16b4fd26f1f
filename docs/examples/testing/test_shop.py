"""Run by pytest, with the fixtures of tracked_queue: no Redis has to be started."""

from collections.abc import Callable, Coroutine
from typing import Any

import shop

from tracked_queue.testing import Fake, QueueKit

Run = Callable[[Callable[[QueueKit], Coroutine[Any, Any, None]]], None]


def test_an_order_is_to_be_paid(fake_queue: Fake) -> None:
    shop.pay.enqueue_sync(1, cents=250)
    fake_queue.assert_enqueued(shop.pay, 1)
    fake_queue.assert_not_enqueued(shop.receipt)


def test_a_payment_has_one_receipt(run_queue_test: Run) -> None:
    async def check(kit: QueueKit) -> None:
        await shop.place(2, 250)
        assert await kit.drain() == 2
        assert shop.receipts == [2]

    run_queue_test(check)


def test_money_is_taken_once_wherever_the_worker_dies(run_queue_test: Run) -> None:
    async def check(kit: QueueKit) -> None:
        async for crash in kit.crash_everywhere(shop.pay.call(3, cents=250)):
            assert len(shop.bank.charges) == 1, crash
            shop.bank.charges.clear()

    run_queue_test(check)
