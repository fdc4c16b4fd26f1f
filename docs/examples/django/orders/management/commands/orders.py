from django.core.management.base import BaseCommand

from orders.models import Order
from orders.tasks import write_receipt


class Command(BaseCommand):
    help = "Lists the orders, with what their tasks came to."

    def handle(self, **options):
        for order in Order.objects.order_by("pk"):
            result = write_receipt.get_result(order.job_id)
            self.stdout.write(f"{order.pk} {result.status.lower()}: {order.receipt or 'no receipt yet'}")
