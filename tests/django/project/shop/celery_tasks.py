"""Tasks that were written for Celery."""

from __future__ import annotations

from tracked_queue.compat.celery import shared_task

from .models import Note


@shared_task(name="pulse")
def pulse():
    Note.objects.create(text="pulse")


@shared_task(bind=True, max_retries=2, autoretry_for=(ConnectionError,), retry_kwargs={"countdown": 0})
def copy_note(self, pk, text):
    if self.request.retries == 0:
        raise ConnectionError
    note = Note.objects.get(pk=pk)
    return Note.objects.create(text=f"{note.text} {text}").text
