"""Programs of the other queues, run by the Python of an environment that has them: what they write is really theirs."""

CELERY = """
import sys, datetime, decimal, uuid
from celery import Celery, chain
app = Celery("shop", broker=sys.argv[2])
app.conf.broker_transport_options = {"visibility_timeout": 3600}

@app.task(name="shop.add")
def add(a, b=1): return a + b

@app.task(name="shop.typed")
def typed(at, amount, id): return str(at)

@app.task(name="shop.gone")
def gone(): pass

@app.task(name="shop.retries", bind=True, max_retries=3)
def retries(self, n):
    raise self.retry(countdown=3600)

@app.task(name="shop.slow", acks_late=True)
def slow(n):
    import time; time.sleep(600)

if sys.argv[1] == "write":
    ids = [add.delay(n).id for n in range(5)]
    ids.append(add.apply_async((10,), {"b": 2}, countdown=3600).id)
    ids.append(add.apply_async((11,), queue="mail", expires=7200).id)
    ids.append(add.apply_async((12,), expires=0.001).id)
    ids.append(add.apply_async((13,), priority=9).id)
    typed.delay(datetime.datetime(2030, 1, 2, tzinfo=datetime.timezone.utc), decimal.Decimal("1.5"), uuid.UUID(int=7))
    gone.delay()
    chain(add.s(1), add.s(2)).delay()
    add.apply_async((14,), serializer="pickle")
    print(" ".join(ids))
elif sys.argv[1] == "hold":
    add.apply_async((20,), countdown=3600)
    retries.delay(1)
    slow.delay(1)
else:
    app.worker_main(["worker", "--pool", "solo" if sys.argv[1] == "solo" else "prefork", "-c", "2", "--loglevel", "WARNING", "-Q", "celery,mail"])
"""

RQ = """
import sys, datetime, uuid
from redis import Redis
from rq import Queue
import operator
connection = Redis.from_url(sys.argv[2])
queue = Queue("default", connection=connection)
ids = [queue.enqueue("shop.add", n).id for n in range(5)]
ids.append(queue.enqueue("shop.add", 6, b=2).id)
ids.append(queue.enqueue_in(datetime.timedelta(hours=1), "shop.add", 7).id)
queue.enqueue("shop.gone")
first = queue.enqueue("shop.add", 8)
queue.enqueue("shop.add", 9, depends_on=first)
queue.enqueue("shop.add", slice(1, 2))
queue.enqueue("shop.typed", datetime.datetime(2030, 1, 2, tzinfo=datetime.timezone.utc), "1.5", uuid.UUID(int=7))
print(" ".join(ids))
"""

ARQ = """
import sys, asyncio, datetime
from arq import create_pool
from arq.connections import RedisSettings
async def main():
    pool = await create_pool(RedisSettings.from_dsn(sys.argv[2]))
    for n in range(5):
        await pool.enqueue_job("shop.add", n, _job_id=f"a{n}")
    await pool.enqueue_job("shop.add", 6, b=2)
    await pool.enqueue_job("shop.add", 7, _defer_by=datetime.timedelta(hours=1), _job_id="later")
    await pool.enqueue_job("shop.gone")
    await pool.enqueue_job("shop.add", slice(1, 2))
    await pool.aclose()
asyncio.run(main())
"""

ARQ_WORKER = """
import sys, asyncio
from arq.worker import Worker, func
from arq.connections import RedisSettings
async def add(ctx, a, b=1):
    await asyncio.sleep(0.05)
    print("RAN" if isinstance(a, int) else "odd", a, flush=True)
asyncio.set_event_loop(asyncio.new_event_loop())
worker = Worker([func(add, name="shop.add")], redis_settings=RedisSettings.from_dsn(sys.argv[2]), poll_delay=0.01, max_jobs=2, burst=True, max_burst_jobs=1000)
worker.run()
"""

DRAMATIQ = """
import sys, dramatiq
from dramatiq.brokers.redis import RedisBroker
dramatiq.set_broker(RedisBroker(url=sys.argv[2]))

@dramatiq.actor(actor_name="shop.add")
def add(a, b=1): return a + b

@dramatiq.actor(actor_name="shop.gone")
def gone(): pass

ids = [add.send(n).message_id for n in range(5)]
ids.append(add.send_with_options(args=(6,), kwargs={"b": 2}).message_id)
ids.append(add.send_with_options(args=(7,), delay=3600000).message_id)
gone.send()
(add.message(1) | add.message(2)).run()
print(" ".join(ids))
"""

DRAMATIQ_WORKER = """
import sys, time, dramatiq
from dramatiq.brokers.redis import RedisBroker
broker = RedisBroker(url=sys.argv[2])
dramatiq.set_broker(broker)

@dramatiq.actor(actor_name="shop.add")
def add(a, b=1): time.sleep(600)

worker = dramatiq.Worker(broker, worker_threads=2)
worker.start()
time.sleep(600)
"""

SAQ = """
import sys, asyncio, time
from saq import Queue
async def main():
    queue = Queue.from_url(sys.argv[2])
    for n in range(5):
        await queue.enqueue("shop.add", a=n, key=f"s{n}")
    await queue.enqueue("shop.add", a=6, b=2, key="with b")
    await queue.enqueue("shop.add", a=7, scheduled=int(time.time()) + 3600, key="later")
    await queue.enqueue("shop.gone")
    await queue.enqueue("shop.add", a=8, key="cron:shop.add", scheduled=int(time.time()) + 60)
    await queue.disconnect()
asyncio.run(main())
"""

# Runs jobs, and says so; one that is odd waits for ever.
SAQ_WORKER = """
import sys, asyncio
from saq import Queue, Worker
async def add(ctx, *, a, b=1):
    print("RAN", a, flush=True)
    if sys.argv[1] == "hold":
        await asyncio.sleep(600)
queue = Queue.from_url(sys.argv[2])
asyncio.run(Worker(queue, functions=[("shop.add", add)], concurrency=2).start())
"""

TASKIQ = """
import sys, asyncio, datetime
from taskiq_redis import ListQueueBroker, RedisStreamBroker, ListRedisScheduleSource
kind = RedisStreamBroker if "stream" in sys.argv[1] else ListQueueBroker
broker = kind(url=sys.argv[2], queue_name="shop", **({"consumer_id": "0"} if "stream" in sys.argv[1] else {}))
source = ListRedisScheduleSource(sys.argv[2])

@broker.task(task_name="shop.add")
async def add(a: int, b: int = 1) -> int:
    print("RAN", a, flush=True)
    if "hold" in sys.argv[1]:
        await asyncio.sleep(600)
    return a + b

@broker.task(task_name="shop.gone")
async def gone() -> None: ...

async def main():
    await broker.startup()
    ids = [(await add.kiq(n)).task_id for n in range(5)]
    ids.append((await add.kiq(6, b=2)).task_id)
    await gone.kiq()
    when = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1)
    ids.append((await add.schedule_by_time(source, when, 7)).schedule_id)
    await add.schedule_by_cron(source, "0 3 * * *", 8)
    print(" ".join(ids))
    await broker.shutdown()

async def work():
    from taskiq.api import run_receiver_task
    await run_receiver_task(broker, run_startup=True, max_async_tasks=2)

asyncio.run(work() if "work" in sys.argv[1] else main())
"""

HUEY = """
import sys, datetime
from huey import RedisHuey
huey = RedisHuey("shop", url=sys.argv[2])

@huey.task(name="shop.add")
def add(a, b=1): return a + b

@huey.task(name="shop.gone")
def gone(): pass

ids = [add(n).id for n in range(5)]
ids.append(add(6, b=2).id)
ids.append(add.schedule((7,), delay=3600).id)
gone()
huey.enqueue(add.s(1).then(add, 2))
add(slice(1, 2))
print(" ".join(ids))
"""
