# One line each; every target makes .venv when it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0
PRESET ?= smoke

.PHONY: setup demo test check soak train bench docs pictures wheel clean

setup: $(VENV)/.run

# What running needs: no torch. "dev" adds what tests and checks need.
$(VENV)/.run: pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e ".[cpu,openvino,gui]"
	touch $@

$(VENV)/.dev: $(VENV)/.run
	$(BIN)/pip install -q -c constraints.txt $(TORCH)
	$(BIN)/pip install -q -c constraints.txt -e ".[cpu,openvino,gui,train,biomech,stream,dev]"
	touch $@

demo: $(VENV)/.run
	$(BIN)/python run_demo.py

# The training tests have a process of their own: after the libraries of the other engines had run in
# it, torch's backward pass was seen to crash the process.
test: $(VENV)/.dev
	$(BIN)/python -m pytest --ignore=tests/models/train
	$(BIN)/python -m pytest tests/models/train

# An hour live and an hour of video: fails when memory grows by 5 MB/h or a record is lost.
soak: $(VENV)/.dev
	$(BIN)/python -m tests.soak --minutes 60

check: $(VENV)/.dev
	PATH="$(CURDIR)/$(BIN):$$PATH" .ci/checks

train: $(VENV)/.dev
	$(BIN)/manypose train stage1 --preset $(PRESET) $(if $(DATA),--data $(DATA)) \
		$(if $(BACKBONE),--backbone $(BACKBONE))

bench: $(VENV)/.run
	$(BIN)/manypose bench --people 1 5 10

docs: $(VENV)/.dev
	$(BIN)/pip install -q -e ".[docs]"
	$(BIN)/python -m tests.test_docs
	$(BIN)/mkdocs build -q --strict

# The documentation's pictures of the window: the sample clip again, two sources live. Wants an idle machine.
pictures: $(VENV)/.dev
	$(BIN)/manypose run app/sample.mp4 -o out --overwrite --export mot
	xvfb-run -a -s "-screen 0 1400x1024x24 +extension GLX" $(BIN)/python -m manypose.app.viewer.shot \
		docs/images/window.png out/sample --at 1 --width 1280 --height 640
	xvfb-run -a -s "-screen 0 1400x1024x24 +extension GLX" $(BIN)/python -m manypose.app.viewer.shot \
		docs/images/several.jpg app/sample.mp4 app/sample.mp4 --live --at 8 --width 1200 --height 640
	$(BIN)/python docs/examples/plot_angles.py $$(ls -S out/sample/person_*.mot | head -1) docs/images/angles.png

wheel: $(VENV)/.dev
	$(BIN)/python -m build

clean:
	rm -rf build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache
