import json

from django.core.management.base import BaseCommand

from orders.models import Mark, Order


class Command(BaseCommand):
    """What the tasks have done so far."""

    def handle(self, **_):
        marks = list(Mark.objects.values_list("what", flat=True))
        facts = {
            "orders": Order.objects.count(),
            "receipts": Order.objects.exclude(receipt="").count(),
            "reminded": Order.objects.filter(reminded=True).count(),
            "reports": len([what for what in marks if what.startswith("report")]),
            "announced": len({what for what in marks if what.startswith("announce")}),
            "pulses": marks.count("pulse"),
        }
        self.stdout.write(json.dumps(facts))
