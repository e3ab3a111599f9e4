# make demo   watch cross entropy memorise wrong labels while ELR and ELR+ do not (about two minutes after the installation)
# make test   the tests
# make lint   the style checks
# make test-browser   the HTML report of the label audit in a real browser; needs a Chromium or Chrome of the system (on
#             Debian: apt-get install chromium) and installs playwright, which drives it
# make docs   the documentation as a site that needs no network: site/index.html (Python 3.11 or later)
# Each installs the tested stack (constraints.txt) into .venv first, once. PYTHON=python3.12 chooses the interpreter.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# Named after the interpreter's version, so that another PYTHON makes the environment anew.
READY := $(VENV)/ready-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')

.PHONY: demo test test-slow test-browser lint docs clean

demo: $(READY)
	$(PY) tools/demo.py

test: $(READY)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --maxprocesses 4 --dist loadfile

test-slow: $(READY)
	OMP_NUM_THREADS=1 $(PY) -m pytest -m slow

test-browser: $(READY)
	$(PY) -m pip install --disable-pip-version-check -c constraints.txt -e '.[browser]'
	OMP_NUM_THREADS=1 $(PY) -m pytest -m browser -s

lint: $(READY)
	$(PY) -m ruff check .

docs: $(READY)-docs
	rm -rf site
	$(PY) -m sphinx -W --keep-going -q -E -d build/doctrees docs site
	@echo "Built: site/index.html"

$(READY): setup.py constraints.txt
	@echo "Installing the tested stack into $(VENV): about two minutes and, with torch's CUDA libraries, 5 GB."
	$(PYTHON) -m venv --clear $(VENV)
	$(PY) -m pip install --disable-pip-version-check -c constraints.txt -e '.[lite,demo,test]'
	@touch $(READY)

$(READY)-docs: $(READY)
	$(PY) -m pip install --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

clean:
	rm -rf $(VENV) build dist site *.egg-info
