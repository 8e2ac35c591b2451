.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: test
test: ## run all tests, with a MariaDB and a Redis started for them
	.ci/install node:nodejs npm:npm faketime:faketime
	.ci/servers mariadb redis -- cargo test --workspace --locked --no-fail-fast

.PHONY: test-mysql
test-mysql: ## run the SQL behaviour suites against MySQL 9
	.ci/servers mysql redis -- cargo test --workspace --locked --no-fail-fast --test behaviour

.PHONY: test-client
test-client: ## check and test the TypeScript client, also against a real server, and the chat page in a browser
	.ci/install node:nodejs npm:npm chromium:chromium nginx:nginx /usr/lib/nginx/modules/ngx_stream_module.so:libnginx-mod-stream haproxy:haproxy caddy:caddy
	cargo test --workspace --locked --no-run # as for the other tests, so that nothing is built twice
	.ci/client "$${CARGO_TARGET_DIR:-target}/debug/backscroll"

.PHONY: test-garage
test-garage: ## run the object store's behaviour suite against Garage, which is built on first use
	.ci/servers garage -- cargo test --locked --workspace --test garage

.PHONY: test-galera
test-galera: ## run the test of a shard on a Galera cluster of three nodes, one of which is killed
	.ci/servers galera -- cargo test --locked --workspace --test cli -- --ignored galera

.PHONY: fuzz-media
fuzz-media: ## give damaged pictures and recordings to the readers of their types, sizes and durations, for 5 minutes or MINUTES=…
	cargo test --locked --workspace --lib --no-run
	PROPTEST_CASES=4000000000 timeout $(or $(MINUTES),5)m cargo test --locked --workspace --lib -- --test-threads 8 nothing_makes_it_fail || test $$? -eq 124

.PHONY: stepper
stepper: ## explore the orders of steps of archive jobs, readers and writers, for hours; STEPPER="hot run edit:2" explores one pair
	BACKSCROLL_STEPPER="$(or $(STEPPER),all)" cargo test --locked --workspace --test stepper -- --nocapture acknowledged

.PHONY: faults
faults: ## the whole under kills, pauses, bad networks and wrong clocks, held against a ledger; MINUTES=10 SEED=1
	.ci/install mariadbd:mariadb-server-core mariadb-install-db:mariadb-server-core my_print_defaults:mariadb-client-core redis-server:redis-server faketime:faketime
	cargo build --locked --workspace --bins --tests # as for the tests, so that nothing is built twice
	.ci/servers -- "$${CARGO_TARGET_DIR:-target}/debug/backscroll-bench" faults --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED))

.PHONY: lint
lint: ## check the formatting, run Clippy and build the documentation, warnings denied
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo clippy --workspace --test garage --locked -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --locked --no-deps --document-private-items

.PHONY: bench
bench: ## measure against a durable MariaDB and a Redis started for it; BENCH="send --rounds 9" runs one scenario
	case "$(or $(BENCH),all)" in all* | archive*) .ci/install pt-archiver:percona-toolkit ;; esac
	case "$(or $(BENCH),all)" in all* | deliver* | fanout* | idle*) .ci/install node:nodejs npm:npm ;; esac
	cargo build --release --locked -p backscroll -p backscroll-bench
	BACKSCROLL_SQL_DURABLE=1 .ci/servers mariadb redis -- "$${CARGO_TARGET_DIR:-target}/release/backscroll-bench" $(or $(BENCH),all)

.PHONY: bench-machine
bench-machine: ## one scenario in a virtual machine, where a process may open a million files; for example BENCH="idle --sides native"
	@test -n "$(BENCH)" || { echo 'which scenario? for example BENCH="idle --connections 50000 --sides native"' >&2; exit 2; }
	.ci/install mariadbd:mariadb-server-core my_print_defaults:mariadb-client-core redis-server:redis-server
	cargo build --release --locked -p backscroll -p backscroll-bench
	BACKSCROLL_SQL_DURABLE=1 .ci/machine .ci/servers mariadb redis -- "$${CARGO_TARGET_DIR:-target}/release/backscroll-bench" $(BENCH)

.PHONY: fmt
fmt: ## format the code
	cargo fmt --all

.PHONY: clean-cache
clean-cache: ## delete what is kept between runs outside the repository: MySQL, Garage, a kernel, CI's build
	rm -rf --one-file-system "$${BACKSCROLL_CACHE:-$${XDG_CACHE_HOME:-$$HOME/.cache}/backscroll}"
