from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [
        migrations.CreateModel(
            "Order",
            [
                ("id", models.BigAutoField(primary_key=True)),
                ("item", models.CharField(max_length=100)),
                ("receipt", models.CharField(max_length=200, blank=True)),
                ("job_id", models.CharField(max_length=64, blank=True)),
            ],
        )
    ]
