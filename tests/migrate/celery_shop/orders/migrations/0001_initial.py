from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    operations = (
        migrations.CreateModel(
            "Order",
            [
                ("id", models.BigAutoField(primary_key=True)),
                ("item", models.CharField(max_length=50)),
                ("receipt", models.TextField(blank=True)),
                ("reminded", models.BooleanField(default=False)),
            ],
        ),
        migrations.CreateModel(
            "Mark",
            [("id", models.BigAutoField(primary_key=True)), ("what", models.CharField(max_length=50))],
        ),
    )
