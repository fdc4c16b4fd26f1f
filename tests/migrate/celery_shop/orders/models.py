from django.db import models


class Order(models.Model):
    id = models.BigAutoField(primary_key=True)
    item = models.CharField(max_length=50)
    receipt = models.TextField(blank=True)
    reminded = models.BooleanField(default=False)


class Mark(models.Model):
    id = models.BigAutoField(primary_key=True)
    what = models.CharField(max_length=50)
