import asyncio

from tracked_queue import Exponential
from tracked_queue.django import queue, tracked

from .models import Order

try:
    from django.tasks import task
except ImportError:  # Django 5.2
    from django_tasks import task


# Five runs in all, with growing pauses, and half a minute for each.
@task()
@tracked(max_attempts=5, retry=Exponential(base=1), timeout=30)
def write_receipt(order_id):
    order = Order.objects.get(pk=order_id)
    order.receipt = f"One {order.item}, thank you"
    order.save(update_fields=["receipt"])
    tell_customer.using(queue_name="mail", priority=10).enqueue(order_id)


@task(takes_context=True)
async def tell_customer(context, order_id):
    order = await Order.objects.aget(pk=order_id)
    await asyncio.sleep(0.01)  # sends a message
    return f"{order.receipt} (attempt {context.attempt})"


# What Django's tasks can't say, the app can: this runs by the clock, once for the whole fleet.
app = queue()


@app.cron("0 3 * * *", tz="Europe/Berlin")
@app.task()
async def count_orders() -> int:
    return await Order.objects.acount()
