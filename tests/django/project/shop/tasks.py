"""Tasks as a Django project writes them."""

from __future__ import annotations

import asyncio
import os
import threading

from django.db import connection, models, transaction
from django.utils.safestring import mark_safe

from tests.django.versions import task
from tracked_queue import current_job
from tracked_queue.django import queue, tracked

from .models import Note


@task()
def add(a: int, b: int = 1) -> int:
    return a + b


@task()
async def add_later(a: int, b: int = 1) -> int:
    await asyncio.sleep(0)
    return a + b


@task()
def echo(*args, **kwargs):
    return [list(args), kwargs]


class Size(models.TextChoices):
    SMALL = "s"


@task()
def safe():
    return {"html": mark_safe("<b>"), "size": Size.SMALL}


@task()
def fails():
    raise ValueError("This task failed")


@task()
async def fails_later():
    raise ValueError("This task failed")


@task()
def exits():
    raise SystemExit(3)


class Odd(Exception):
    """Can't be pickled, and has no text."""

    def __init__(self):
        super().__init__(lambda: None)


@task()
def fails_oddly():
    raise Odd


@task()
def returns_no_json():
    return {1, 2}


@task(takes_context=True)
def attempts(context, note=""):
    result = context.task_result
    return {
        "attempt": context.attempt,
        "id": result.id,
        "status": str(result.status),
        "args": result.args,
        "enqueued": result.enqueued_at is not None,
        "queue": result.task.queue_name,
        "priority": result.task.priority,
    }


@task(takes_context=True)
async def attempts_later(context):
    return context.attempt


@task()
@tracked(max_attempts=3, retry=[0.01])
def third_time_lucky(key: str):
    Note.objects.create(text=key)
    if Note.objects.filter(text=key).count() < 3:
        raise LookupError("not yet")
    return Note.objects.filter(text=key).count()


@task(backend="plain")
def twice(key: str):
    Note.objects.create(text=key)
    raise LookupError("never")


@task(backend="outbox")
def outboxed(n: int) -> int:
    return n


@task()
@tracked(unique="until_done")
def once(key: str):
    return key


@task(queue_name="mail")
def mail(to: str):
    return to


@task()
def write_note(text: str) -> int:
    return Note.objects.create(text=text).pk


@task()
async def orm_at_once(text: str) -> bool:
    """A transaction of its own beside many others."""
    note = await Note.objects.acreate(text=text)

    def inside() -> tuple[int, int]:
        with transaction.atomic():
            Note.objects.filter(pk=note.pk).update(text=text + "!")
            return threading.get_ident(), connection.connection is not None

    first = await asyncio.to_thread(lambda: None) or await _sync(inside)
    await asyncio.sleep(0.01)
    again = await Note.objects.aget(pk=note.pk)
    second = await _sync(inside)
    return again.text == text + "!" and first == second


async def _sync(function):
    from asgiref.sync import sync_to_async

    return await sync_to_async(function)()


@task()
def loops() -> int:
    return asyncio.run(Note.objects.acount()) * 0 + 1


@task()
async def enqueues() -> list:
    result = await add.aenqueue(1)
    return [result.id, current_job().thread.used]


@task()
def backend_pid() -> int:
    with connection.cursor() as cursor:
        cursor.execute("select pg_backend_pid()")
        return cursor.fetchone()[0]


@task()
@tracked(isolate="process")
def apart(text: str) -> list:
    return [Note.objects.create(text=text).pk, os.getpid()]


app = queue()


@app.task(name="typed")
async def typed(n: int) -> int:
    """A task of the app beside Django's own."""
    return n + await Note.objects.acount() * 0


@task()
def copies(n):
    """As many further notes, by a task each."""
    note = Note.objects.filter(text="mine").first()
    if n:
        Note.objects.create(text=note.text)
        copies.enqueue(n - 1)
