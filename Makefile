# "make" alone lists the tasks. Each task's line is the comment behind its name.

CARGO ?= cargo
# One set of flags everywhere: what was locked is what is built.
LOCKED := --locked
TARGET := $(or $(CARGO_TARGET_DIR),target)/debug

# Every file and folder of tests/ is a test of the operator; testkit and simulation have their own. They are
# named one by one, and not by package, so that all are built with the same features, once.
# Those that need more than Rust, Go and a C compiler have tasks of their own.
OPERATOR_TESTS := $(filter-out monitoring e2e,$(sort $(patsubst tests/%.rs,%,$(wildcard tests/*.rs)) \
                         $(patsubst tests/%/main.rs,%,$(wildcard tests/*/main.rs))))
# Those whose operator acts in single namespaces, and has the chart's rights.
SCENE_TESTS := operator commands examples faults interruptions transcripts
TESTKIT_TESTS := $(filter-out node,$(sort $(patsubst testkit/tests/%.rs,%,$(wildcard testkit/tests/*.rs)) \
                                          $(patsubst testkit/tests/%/main.rs,%,$(wildcard testkit/tests/*/main.rs))))
SIMULATOR_TESTS := simulator
SIMULATION_TESTS := $(sort $(patsubst simulation/tests/%.rs,%,$(wildcard simulation/tests/*.rs)))
# make sim runs so many seeds of so many days each, with a hundred resources.
SEEDS ?= 100
DAYS ?= 3.65
# make soak lasts so many minutes, and a sixth more for tokens that are kept.
MINUTES ?= 30
CLUSTER_TESTS := $(filter-out $(SIMULATOR_TESTS),$(TESTKIT_TESTS)) $(OPERATOR_TESTS)

# make image makes this one, from RUST_IMAGE or the base image of the Dockerfile, and make e2e-image that of
# the simulator and the workload.
IMAGE ?= servicenow-credential-operator:$(VERSION)
E2E_TESTKIT_IMAGE ?= snowcred-testkit:e2e
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
REVISION = $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
# One checkout makes one set of labels and times.
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
# The client of Docker may be there without Docker.
IMAGE_BUILD = $(if $(shell docker version >/dev/null 2>&1 && echo there),docker build,buildah bud)
# The image's own time, which Docker takes from the argument SOURCE_DATE_EPOCH.
IMAGE_TIME = $(if $(findstring buildah,$(IMAGE_BUILD)),--timestamp $(SOURCE_DATE_EPOCH))

.DEFAULT_GOAL := help
.PHONY: help demo test chart e2e sim soak bench campaign tools image e2e-image generate manifests transcripts fmt lint build clean need-cargo need-cc need-go need-fmt need-clippy need-prometheus need-node

help: ## List the tasks
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "  make demo KEEP=1   stays up until Ctrl-C, with a kubeconfig to try things by hand"

demo: tools ## Show the operator at work: a real Kubernetes API, a simulated ServiceNow (1 minute)
	@$(TARGET)/demo $(if $(filter-out 0 no false,$(KEEP)),--keep)

test: need-cargo need-cc need-go need-fmt need-clippy ## Check everything: format, lints, unit tests, simulator, real control plane
	@echo "make test does, in this order:"
	@echo "  1. the format          3. unit and documentation tests,  5. the Kubernetes programs, if they are not"
	@echo "  2. the lints              seeds of the simulation           there yet (about 14 minutes, once)"
	@echo "                         4. tests against the simulator"
	@echo "  6. tests against the real control plane: $(CLUSTER_TESTS)"
	@echo "A first run compiles all dependencies as well."
	@echo "== 1/6 format"
	$(CARGO) fmt --all --check
	@echo "== 2/6 lints"
	$(CARGO) clippy $(LOCKED) --workspace --all-targets -- -D warnings
	@echo "== 3/6 unit and documentation tests"
	$(CARGO) test $(LOCKED) --workspace --lib --bins
	$(CARGO) test $(LOCKED) --workspace --doc
	$(CARGO) test $(LOCKED) --workspace $(addprefix --test ,$(SIMULATION_TESTS))
	@echo "== 4/6 tests against the simulator"
	$(CARGO) test $(LOCKED) --workspace $(addprefix --test ,$(SIMULATOR_TESTS))
	@echo "== 5/6 the Kubernetes programs"
	@# Built along with the tests of its package.
	$(TARGET)/control-plane --build-only --with helm
	@echo "== 6/6 tests against the real control plane"
	$(CARGO) test $(LOCKED) --workspace $(addprefix --test ,$(CLUSTER_TESTS))
	@echo "== everything passed"

e2e: need-node $(if $(E2E_SKIP),,build need-go) ## Run the operator in pods, from its image and chart, through upgrade, kills and rescheduling (15 minutes)
ifeq ($(E2E_SKIP),)
	@$(TARGET)/control-plane --build-only --with $(if $(E2E_KUBECONFIG),helm,node$(comma)helm) >/dev/null
	$(if $(E2E_KUBECONFIG),,$(CARGO) test $(LOCKED) --workspace --test node -- --test-threads=1)
	$(CARGO) test $(LOCKED) --workspace --test e2e -- --nocapture --test-threads=1
endif

sim: need-cargo need-cc ## Simulate fleets through bad days in virtual time: make sim SEEDS=100 DAYS=3.65
	$(CARGO) run $(LOCKED) --release -p simulation -- --seeds $(SEEDS) --days $(DAYS)

chart: need-cargo need-cc need-go need-prometheus ## Check the Helm chart, its rights, alerts and dashboard, on the real control plane
	@echo "== 1/2 the chart, alerts and dashboard"
	promtool check rules charts/servicenow-credential-operator/files/alerts.yaml
	promtool test rules tests/monitoring/alerts_test.yaml
	$(CARGO) test $(LOCKED) --workspace --test chart --test monitoring
	@echo "== 2/2 the operator with rights in single namespaces"
	SNOWCRED_RBAC=namespaces $(CARGO) test $(LOCKED) --workspace $(addprefix --test ,$(SCENE_TESTS))

soak: need-cargo need-cc need-go ## Run a fleet of 300 short tokens through random faults: make soak MINUTES=30
	SOAK_MINUTES=$(MINUTES) $(CARGO) test $(LOCKED) --release --workspace --test soak -- --nocapture --test-threads=1

bench: need-cargo need-cc need-go ## Measure fleets of up to 10,000 beside the floor, and write docs/performance.* (a quarter of an hour)
	SNOWCRED_BENCH=full $(CARGO) test $(LOCKED) --release --workspace --test bench -- --nocapture --exact \
	  a_fleet_costs_the_requests_that_its_tokens_cost_and_no_more

campaign: need-cargo need-cc need-go ## Interrupt the operator at every point, and lead resources through many histories (10 minutes)
	SNOWCRED_CAMPAIGN=full $(CARGO) test $(LOCKED) --workspace --test interruptions --test histories -- --nocapture

tools: build need-go ## Build etcd, kube-apiserver, kube-controller-manager and kubectl, once
	@$(TARGET)/control-plane --build-only >/dev/null

image: ## Build the operator's image with docker or buildah: make image IMAGE=name:tag
	$(IMAGE_BUILD) $(IMAGE_TIME) --tag $(IMAGE) $(if $(RUST_IMAGE),--build-arg RUST_IMAGE=$(RUST_IMAGE)) \
	  --build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) \
	  --build-arg SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) \
	  --build-arg CREATED=$$(date -u -d @$(SOURCE_DATE_EPOCH) +%Y-%m-%dT%H:%M:%SZ) .

e2e-image: build ## Build the image of simulator and workload, for make e2e on your own cluster
	$(TARGET)/e2e-image $(TARGET)/e2e-image-context
	$(IMAGE_BUILD) $(IMAGE_TIME) --tag $(E2E_TESTKIT_IMAGE) $(TARGET)/e2e-image-context

generate: need-cargo need-cc ## Write crds/ and the copy in the chart from the types in src/api
	$(CARGO) run $(LOCKED) --quiet -- crd > crds/servicenowcredentials.yaml.new
	mv crds/servicenowcredentials.yaml.new crds/servicenowcredentials.yaml
	cp crds/servicenowcredentials.yaml charts/servicenow-credential-operator/files/crd.yaml

manifests: need-cargo need-cc need-go ## Write dist/install.yaml and the table of the chart's README from the chart
	SNOWCRED_WRITE_MANIFESTS=1 $(CARGO) test $(LOCKED) --workspace --test chart -- generated::

transcripts: need-cargo need-cc need-go ## Write the README's transcripts from what the commands print
	SNOWCRED_WRITE_TRANSCRIPTS=1 $(CARGO) test $(LOCKED) --workspace --test transcripts

fmt: need-cargo need-fmt ## Format the code
	$(CARGO) fmt --all

lint: need-cargo need-cc need-fmt need-clippy ## Check format and lints only
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(LOCKED) --workspace --all-targets -- -D warnings

build: need-cargo need-cc ## Build the operator and the programs of testkit
	$(CARGO) build $(LOCKED) --workspace --bins

clean: need-cargo ## Remove what was compiled here; the Kubernetes programs stay in their cache
	$(CARGO) clean

# What is missing is said before anything is begun, with the way to get it.

need-cargo:
	@command -v $(CARGO) >/dev/null || { echo "error: cargo is missing. Install Rust $$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml) or newer with rustup (https://rustup.rs)." >&2; exit 1; }

need-cc:
	@command -v cc >/dev/null || { echo "error: a C compiler is missing (no cc). Install one: on Debian and Ubuntu the package gcc, on Fedora gcc, on macOS the Xcode command line tools." >&2; exit 1; }

need-go:
	@command -v go >/dev/null || { echo "error: go is missing. The Kubernetes programs for tests and demo are built with Go $$(sed -n 's/^go //p' tools/go.mod) or newer: https://go.dev/doc/install" >&2; exit 1; }

# A node needs root and what Debian's packages bring; a cluster of one's own needs neither.
comma := ,
need-node:
ifeq ($(E2E_SKIP),untested)
	@printf '%s\n' \
	  '**********************************************************************' \
	  '* make e2e is SKIPPED, because E2E_SKIP=untested asks for it.        *' \
	  '* Nothing here has seen the operator run in a pod: not its image,    *' \
	  '* not its chart, not a Secret that reaches a file.                   *' \
	  '**********************************************************************' >&2
else ifneq ($(E2E_SKIP),)
	@echo "error: E2E_SKIP takes one word, untested, and not \"$(E2E_SKIP)\"" >&2; exit 1
else ifeq ($(E2E_KUBECONFIG),)
	@[ "$$(id -u)" = 0 ] || { echo "error: make e2e makes this machine a node, which needs root. Run it as root, or name a cluster of your own with E2E_KUBECONFIG (docs/e2e.md), or skip it with E2E_SKIP=untested." >&2; exit 1; }
	@missing=; PATH="$$PATH:/usr/sbin:/sbin"; \
	for pair in buildah:buildah containerd:containerd ctr:containerd runc:runc nft:nftables ip:iproute2 unshare:util-linux nsenter:util-linux; do \
	  command -v "$${pair%%:*}" >/dev/null || missing="$$missing $${pair#*:}"; \
	done; \
	[ -e /usr/lib/cni/bridge ] || [ -e /opt/cni/bin/bridge ] || [ -e /usr/libexec/cni/bridge ] || missing="$$missing containernetworking-plugins"; \
	[ -e /etc/ssl/certs/ca-certificates.crt ] || missing="$$missing ca-certificates"; \
	[ -z "$$missing" ] || { echo "error: make e2e makes this machine a node, and lacks packages of Debian for it: apt-get install$$missing" >&2; exit 1; }
endif

need-fmt: need-cargo
	@$(CARGO) fmt --version >/dev/null 2>&1 || { echo "error: rustfmt is missing. Install it: rustup component add rustfmt" >&2; exit 1; }

need-clippy: need-cargo
	@$(CARGO) clippy --version >/dev/null 2>&1 || { echo "error: clippy is missing. Install it: rustup component add clippy" >&2; exit 1; }

need-prometheus:
	@for program in prometheus promtool; do command -v $$program >/dev/null || { echo "error: $$program is missing. Install Prometheus: on Debian and Ubuntu the package prometheus, which has promtool, too." >&2; exit 1; }; done
