from celery import chain
from django.core.management.base import BaseCommand
from django.db import transaction

from orders.models import Order
from orders.tasks import announce, day_report, remind, write_receipt


class Command(BaseCommand):
    def add_arguments(self, parser):
        parser.add_argument("count", type=int)

    def handle(self, count, **_):
        for n in range(count):
            with transaction.atomic():
                order = Order.objects.create(item=("tea", "coffee")[n % 2])
                write_receipt.delay_on_commit(order.pk)
            remind.apply_async((order.pk,), countdown=3600)
        day_report()
        chain(write_receipt.s(order.pk), announce.s("done"))()
