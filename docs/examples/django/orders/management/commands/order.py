from django.core.management.base import BaseCommand
from django.db import transaction

from orders.models import Order
from orders.tasks import write_receipt


class Command(BaseCommand):
    help = "Places an order, as a view would."

    def add_arguments(self, parser):
        parser.add_argument("item")

    @transaction.atomic
    def handle(self, *, item, **options):
        order = Order.objects.create(item=item)
        # Enqueued when the transaction commits; its id is known already.
        order.job_id = write_receipt.enqueue(order.pk).id
        order.save()
        if item == "nothing":
            raise SystemExit("nothing was ordered, so nothing is enqueued")
        self.stdout.write(f"order {order.pk} is placed")
