from django.db import models


class Order(models.Model):
    item = models.CharField(max_length=100)
    receipt = models.CharField(max_length=200, blank=True)
    job_id = models.CharField(max_length=64, blank=True)
