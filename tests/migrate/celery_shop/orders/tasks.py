import time

from celery import chord, shared_task
from celery.utils.log import get_task_logger

from .models import Mark, Order

log = get_task_logger(__name__)


@shared_task(bind=True, max_retries=5, autoretry_for=(ConnectionError,), retry_backoff=True)
def write_receipt(self, order_id):
    order = Order.objects.get(pk=order_id)
    if order_id % 5 == 0 and self.request.retries == 0:
        raise ConnectionError("the printer is away")
    if order_id % 7 == 0 and self.request.retries < 2:
        raise self.retry(countdown=1)
    time.sleep(0.1)
    order.receipt = f"Thank you for {order.item}"
    order.save(update_fields=["receipt"])
    log.info("receipt %s", order_id)
    return order_id


@shared_task
def remind(order_id):
    Order.objects.filter(pk=order_id).update(reminded=True)


@shared_task
def count_item(item):
    return Order.objects.filter(item=item).count()


@shared_task
def report(counts):
    Mark.objects.create(what=f"report {sum(counts)}")


@shared_task
def announce(order_id, text):
    Mark.objects.create(what=f"announce {order_id} {text}")


@shared_task
def pulse():
    Mark.objects.create(what="pulse")


def day_report():
    return chord(count_item.s(item) for item in ("tea", "coffee"))(report.s())
