"""A shop whose jobs take money and send receipts, with a bank that is told of the same payment twice if a job is careless."""

import asyncio
import os

from tracked_queue import TrackedQueue, current_job

app = TrackedQueue()


class Bank:
    def __init__(self) -> None:
        self.charges: dict[str, int] = {}

    async def charge(self, key: str, cents: int) -> None:
        await asyncio.sleep(0)  # the network
        self.charges[key] = cents


bank, receipts = Bank(), list[int]()


@app.task(name="receipt", unique="until_done")
async def receipt(order: int) -> None:
    receipts.append(order)


@app.task(name="pay")
async def pay(order: int, cents: int) -> None:
    # A key for each run, as CARELESS has it, charges anew whenever the job runs again.
    key = os.urandom(8).hex() if os.environ.get("CARELESS") else current_job().idempotency_key
    await bank.charge(key, cents)
    await receipt.enqueue(order)


async def place(order: int, cents: int) -> None:
    await pay.enqueue(order, cents=cents)
