"""The shop on tracked_queue: two lines differ."""

import sys

from tracked_queue import TrackedQueue
from tracked_queue.compat.celery import Celery, chord

queue = TrackedQueue()  # where: REDIS_URL
app = Celery(queue)


@app.task(name="shop.receipt", bind=True, max_retries=4, autoretry_for=(ConnectionError,), retry_backoff=True)
def receipt(self, order):
    if order == 3 and self.request.retries == 0:
        raise self.retry(countdown=0)
    text = f"order {order}, in run {self.request.retries + 1}"
    with open("receipts.txt", "a") as receipts:
        print(text, file=receipts)
    return text


@app.task(name="shop.report")
def report(receipts):
    print(f"{len(receipts)} receipts were written", flush=True)


if __name__ == "__main__":
    orders = [int(order) for order in sys.argv[2:]]
    if sys.argv[1] == "place":
        for order in orders:
            receipt.delay(order)
        receipt.apply_async((100,), countdown=3600)
    else:
        chord(receipt.s(order) for order in orders)(report.s())
