# Two commands matter: `make repro` and `make test`. Python 3.11 or newer, git and make are enough.
PYTHON ?= python3
VENV := .venv
# uv, told where pip is set to take packages from: variables (`:env:.`) count before files.
UV_TERMS = s/\(=.\)\\n/\1/; s/\\n/ /g; s/^[^.]*[.]index-url=/export UV_DEFAULT_INDEX=/p; \
    s/^[^.]*[.]extra-index-url=/export UV_INDEX=/p; s/^[^.]*[.]cert=/export SSL_CERT_FILE=/p; \
    s/^[^.]*[.]trusted-host=/export UV_INSECURE_HOST=/p; s/^[^.]*[.]proxy=/export ALL_PROXY=/p; \
    /[.]find-links=/{ s/ /,/g; s/^[^=]*=/export UV_FIND_LINKS=/p; }
UV = eval "$$($(VENV)/bin/python -m pip config list | sort -r | sed -n '$(UV_TERMS)')"; UV_INDEX_STRATEGY=unsafe-best-match $(VENV)/bin/uv
SUPPLY_CHAIN := .venv-supply-chain
LOCKS := $(wildcard requirements*.lock)
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: setup repro try test smoke test-all mutations campaign check bench bench-peers bench-parts bench-growth bench-big bench-scale pictures notebook lock audit sbom wheel mlflow tensorboard

setup: $(VENV)/installed $(EXTRAS:%=$(VENV)/installed-%)

# A .venv that was moved or copied holds programs that call the old place: it is made anew.
ifneq ($(shell cat $(VENV)/installed 2>/dev/null),$(CURDIR))
.PHONY: $(VENV)/installed
endif

$(VENV)/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed; name one with make PYTHON=...")'
	@echo 'setting up $(VENV): once, several GB'
	@{ [ "$$(cat $@ 2>/dev/null)" = '$(CURDIR)' ] && $(VENV)/bin/python -m pip --version >/dev/null 2>&1; } || $(PYTHON) -m venv --clear $(VENV)
	@sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > $(VENV)/uv.lock
	@PIP_USER=0 $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --requirement $(VENV)/uv.lock
	@$(UV) pip install --quiet --python $(VENV)/bin/python --require-hashes --compile-bytecode --requirements requirements.lock
	@$(UV) pip install --quiet --python $(VENV)/bin/python --no-deps --no-build-isolation --editable .
	@$(VENV)/bin/python -m generative.pipeline.plots_page $(VENV)/plots.html
	@$(VENV)/bin/dvc config --local plots.html_template ../$(VENV)/plots.html
	@echo '$(CURDIR)' > $@

# make setup EXTRAS='sweep ssh s3': what can be done without, each with a lock file of its own.
$(VENV)/installed-%: requirements-%.lock $(VENV)/installed
	@$(UV) pip install --quiet --python $(VENV)/bin/python --require-hashes --compile-bytecode --requirements $<
	@touch $@

repro: setup
	generative check
	dvc repro
	-runrecord sync
	@echo
	@dvc metrics show metrics/ae.json metrics/vae.json
	@echo
	-@runrecord report
	@echo 'Compare runs:      make mlflow'
	@echo 'Follow losses:     make tensorboard'
	@echo 'Curves, pictures:  dvc plots show    (after: source .venv/bin/activate)'

# A first result soon: an experiment of a few epochs, roughly evaluated, which keeps the committed results.
try: setup
	@if printf %s "$$PWD" | LC_ALL=C grep -q '[^ -~]'; then \
	    echo "error: $$PWD: DVC makes no experiment apart (--temp) where a folder's name has more than ASCII; clone" \
	        "into another folder, or run 'make repro'." >&2; exit 2; \
	fi
	generative check
	name=try-$$(date +%H%M%S) && dvc exp run --temp --name $$name -S ae.epochs=1 -S vae.epochs=3 -S gan.epochs=1 \
	    -S evaluate.importance_samples=20 -S evaluate.noise_seeds=2 -S evaluate.probe_images=1000 \
	    -S evaluate.compared_samples=1000 && runrecord report $$name
	@echo 'Pictures, curves and figures: report.html. All runs: make mlflow'

test: setup
	pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not slow'
	@echo 'The long campaigns too: make test-all, make campaign'

smoke: setup
	pytest -q -n 2 --dist loadfile -m 'not slow and not workspace'

test-all: setup
	pytest -n 2 --dist loadfile --no-loadscope-reorder

mutations: setup
	python tests/mutations.py --all

campaign: setup
	python tests/campaign.py
	python tests/power.py

check: setup
	ruff format --check
	ruff check
	mypy

bench: setup
	python benchmarks/bench.py

bench-peers: setup
	$(PYTHON) -m venv .venv-peers
	$(UV) pip install --quiet --python .venv-peers/bin/python --require-hashes --requirements benchmarks/peers-requirements.txt
	python benchmarks/peers.py .venv-peers/bin/python
	python benchmarks/peers.py .venv-peers/bin/python --whole
	python benchmarks/peers.py .venv-peers/bin/python --windows

bench-parts: setup
	python benchmarks/parts.py

bench-growth: setup
	python benchmarks/growth.py

bench-big: setup
	python benchmarks/big.py $(SIZES)

bench-scale: setup
	python benchmarks/scale.py

# Of committed results and the experiment `clean`; needs Chromium.
pictures: setup
	runrecord sync --tensorboard
	python benchmarks/pictures.py

lock: setup
	$(UV) pip compile --quiet --universal --generate-hashes --no-header --no-annotate --python-version 3.11 --extra generative --extra dev --upgrade pyproject.toml --output-file requirements.lock
	for extra in sweep ssh s3 s3-server notebook frameworks; do \
	    $(UV) pip compile --quiet --universal --generate-hashes --no-header --no-annotate --python-version 3.11 --extra $$extra --constraint requirements.lock --upgrade pyproject.toml --output-file requirements-$$extra.lock || exit; \
	done
	$(UV) pip compile --quiet --universal --generate-hashes --no-header --no-annotate --python-version 3.11 --group supply-chain --upgrade --output-file .ci/supply-chain.lock

# Tools that look at the locks from outside, and need none of what these install.
$(SUPPLY_CHAIN)/installed: .ci/supply-chain.lock
	@$(PYTHON) -m venv --clear $(SUPPLY_CHAIN)
	@PIP_USER=0 $(SUPPLY_CHAIN)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --requirement $<
	@touch $@

# A report, which stops nothing: what is known of a package may change on any day. `--strict`, for one that PyPI does
# not answer for would else count as sound.
audit: $(SUPPLY_CHAIN)/installed
	-@$(SUPPLY_CHAIN)/bin/pip-audit --strict --disable-pip --desc off --progress-spinner off $(AUDIT) $(LOCKS:%=--requirement %)

sbom: setup $(SUPPLY_CHAIN)/installed
	rm -rf src/runrecord.egg-info # pip install . leaves it, and the package would be listed by its folder
	$(SUPPLY_CHAIN)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-file sbom.json $(VENV)/bin/python

# Of the last commit, as it is there: the same bytes in any folder, on any day and under any umask.
wheel: setup
	folder=$$(mktemp -d) && trap 'rm -r "$$folder"' EXIT && umask 022 && \
	    git -c tar.umask=022 archive HEAD | tar -x --no-same-permissions -C "$$folder" && \
	    SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist "$$folder"

# The notebooks' outputs anew.
notebook: setup $(VENV)/installed-notebook
	dvc repro download-mnist
	python notebooks/run.py

mlflow: setup
	runrecord mlflow

tensorboard: setup
	runrecord tensorboard
