# make run   starts the server on http://127.0.0.1:8080
# make test  checks everything
#
# Both set up what they need and say what they cannot.

.PHONY: run test packages format lint deny unit api browser load-smoke tools

CARGO ?= cargo
export CHROMIUM ?= /usr/bin/chromium

run: packages
	$(CARGO) run --release

test: tools packages format lint deny unit api browser load-smoke

# The npm packages of the pages, as the lock file has them.
packages:
	@if ! command -v npm >/dev/null; then \
		echo "npm is missing: the server runs all the same, but its pages will say what they lack"; \
	elif ! cmp -s public/package-lock.json public/node_modules/.package-lock-installed; then \
		npm --prefix public ci --no-audit --no-fund && \
		cp public/package-lock.json public/node_modules/.package-lock-installed; \
	fi

# What tests need besides a Rust toolchain, Node and a C compiler.
tools:
	@./tests/install-tools

format:
	$(CARGO) fmt --check

lint:
	$(CARGO) clippy --all-targets -- -D warnings

# Licences and known faults of what is built in.
deny: tools
	@./tests/deny

unit:
	$(CARGO) test

# Generated requests against the server just built, by its own description.
api:
	@./tests/api/run

# Pages and provider, in a real browser, against the server just built.
browser:
	@if ! command -v node >/dev/null; then \
		echo "node is missing: the browser tests are skipped"; test -z "$$CI"; \
	elif ! test -x "$(CHROMIUM)"; then \
		echo "$(CHROMIUM) is missing: the browser tests are skipped"; test -z "$$CI"; \
	else \
		npm --prefix public run check && \
		SERVER_BIN="$(CURDIR)/target/debug/promptgrimoire" npm --prefix public test; \
	fi

# Every scenario of the load tool, with small numbers: that they work, not how fast.
load-smoke:
	$(CARGO) run --example load -- all --quick
