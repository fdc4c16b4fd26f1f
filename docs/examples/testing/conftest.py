import pytest
import shop

from tracked_queue import TrackedQueue


@pytest.fixture
def queue_app() -> TrackedQueue:
    shop.bank.charges.clear()
    shop.receipts.clear()
    return shop.app
