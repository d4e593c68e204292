# From raw tiles to a report, in order; `make help` lists the targets. A settings file is a run: PARAMS=wide.yaml
# writes under runs/wide. A step reruns when a section of the settings that it reads, its input or its code changed, not
# when a file was touched or a comment edited; `make -n report` says what would. `make -t report` accepts everything as
# it stands.

PARAMS ?= params.yaml
override PARAMS := $(value PARAMS)
override TILE := $(value TILE)
override EXTRA := $(value EXTRA)
override AOI := $(value AOI)
override SCHEDULER := $(value SCHEDULER)
N ?= 3
override N := $(value N)
export PARAMS TILE EXTRA AOI SCHEDULER N
PYTHON ?= python3
# a settings file is a run; params.yaml as a training wrote it beside its run.json is that run
RUN := $(if $(and $(filter %/params.yaml,$(PARAMS)),$(wildcard $(dir $(PARAMS))run.json)),$(patsubst %/,%,$(dir $(PARAMS))),runs/$(basename $(notdir $(PARAMS))))
S := $(RUN)/.make
SETTINGS := $(S)/$(notdir $(RUN)).yaml
# PY=python3 takes an environment of your own
PY := .venv/bin/python
ENVIRONMENT := $(if $(filter command,$(firstword $(origin PY))),,.venv/.installed)

.DELETE_ON_ERROR:
.NOTPARALLEL:  # each step needs the one before, and uses every core
.PHONY: help demo report figures compare seeds evaluate predict train lr_find prepare params model tile kept test faults extras lock clean always

help:  ## this list
	@awk -F ':.*## ' '/^[a-z_]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  PARAMS=file.yaml chooses the settings (params.yaml); TILE=2_13, /a/path.tif or /a/folder what to predict;"
	@echo "  EXTRA= its extra raster; AOI=area.geojson where; SCHEDULER=local:4 or tcp://host:8786 a Dask cluster to predict on;"
	@echo "  N=3 how many seeds"

# -- environment

REQUIREMENTS := requirements.$(if $(LOCKED),lock,txt)
.venv/.installed: $(REQUIREMENTS) $(shell cmp -s $(REQUIREMENTS) .venv/.installed || echo always)  # a copy of them: a touched file installs nothing
	@cmp -s $(REQUIREMENTS) $@ || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON): not Python 3.11 or newer, expected it on PATH; install it or name it with PYTHON=" >&2; exit 4; }
	@cmp -s $(REQUIREMENTS) $@ || echo "installing TensorFlow and the rest of $(REQUIREMENTS) into .venv (2.5 GB, some minutes)"
	@cmp -s $(REQUIREMENTS) $@ || $(PYTHON) -m venv .venv || { echo "error: venv of $(PYTHON): failed, expected a working module; on Debian: apt install python3-venv" >&2; exit 4; }
	@cmp -s $(REQUIREMENTS) $@ || $(PY) -m pip install --quiet --disable-pip-version-check $(if $(LOCKED),--require-hashes) -r $(REQUIREMENTS) || { echo "error: $(REQUIREMENTS): not installed, expected a package registry within reach; see pip's lines above" >&2; exit 4; }
	@cp $(REQUIREMENTS) $@

.venv/.extras: requirements-extras.txt .venv/.installed
	@$(if $(LOCKED),true,cmp -s $< $@ || $(PY) -m pip install --quiet --disable-pip-version-check -r $<) || { echo "error: $<: not installed, expected a package registry within reach; see pip's lines above" >&2; exit 4; }
	@cp $< $@

extras: .venv/.extras  ## OpenVINO, its 8 bit, Dask and shapely, which predict.py takes where they are

lock: .venv/.installed  ## renew requirements.lock, which LOCKED=1 installs: Linux, Python 3.11, extras too, by hashes
	@$(PY) -m pip install --quiet --disable-pip-version-check uv
	@$(PY) -m uv pip compile --quiet --upgrade --generate-hashes --no-header --no-annotate --python-version 3.11 --python-platform x86_64-manylinux_2_28 -o requirements.lock requirements.txt requirements-extras.txt

# -- stamps: one for each section of the settings, each script and the raw files, rewritten only when what it stands
# for changes; make looks at them first, also under -n

PARENTHESES := ( )
UNSAFE := $(strip $(foreach c,; & | < > ' " ` $$ % : * ? [ ~ $(PARENTHESES),$(findstring $(c),$(PARAMS))))
NAMED := $(filter-out .% -%,$(basename $(notdir $(filter %.yaml %.yml,$(PARAMS)))))
ifneq ($(words $(PARAMS))$(words $(NAMED))$(UNSAFE),11)
$(error error: PARAMS: expected the name of one .yaml file, without spaces or signs of the shell)
endif

ifneq (,$(and $(filter clean,$(MAKECMDGOALS)),$(filter-out clean,$(MAKECMDGOALS))))
$(error error: clean beside other targets, expected it alone; make clean, then the others)
endif
ifneq (,$(filter report evaluate predict tile train lr_find prepare,$(MAKECMDGOALS)))
ifeq ($(wildcard $(PARAMS)),)
$(error error: settings file $(PARAMS): no such file, expected a YAML file; copy params.yaml)
endif
# make predict alone trains where no finished model is; one that is there it leaves as it is
TRAINS := $(filter report evaluate train,$(MAKECMDGOALS))
# of a first training the encoder's weights are seen to first of all; but nothing is downloaded under -n, -q and -t
BEGINS := $(if $(strip $(foreach flag,n q t,$(findstring $(flag),$(firstword -$(MAKEFLAGS))))),,$(filter-out prepare,$(MAKECMDGOALS)))
$(S)/settings.mk: $(ENVIRONMENT) always
	@$(PY) stamps.py --params="$$PARAMS" $(if $(TRAINS),--announce) $(if $(BEGINS),--weights)

include $(S)/settings.mk
KEPT := $(if $(TRAINS),,$(FINISHED))
endif

# -- the steps

unless_there = $(if $(filter $(1),$(LOST)),always)

demo: $(ENVIRONMENT) data/raw/sample/.made  ## made-up tiles through the whole chain, about 4 minutes
	@$(MAKE) --no-print-directory report PARAMS=demo.yaml

data/raw/sample/.made: imagery/sample_tiles.py | $(ENVIRONMENT)
	@cmp -s $< $@ || $(PY) -m imagery.sample_tiles $(@D)
	@cp $< $@

prepare: $(S)/prepared  ## raw tiles to checked, class-indexed tiles
$(S)/prepared: $(S)/prepare_data.code $(S)/data $(S)/split $(S)/raw $(call unless_there,prepared)
	$(PY) prepare_data.py --params="$(SETTINGS)"
	@touch "$@"

lr_find: $(RUN)/lr_find.json  ## the learning-rate range test
$(RUN)/lr_find.json: $(S)/lr_find.code $(S)/prepared $(S)/split $(S)/input $(S)/augment $(S)/model $(S)/lr_find $(S)/train $(S)/seed $(call unless_there,finder)
	$(PY) lr_find.py --params="$(SETTINGS)"

train: $(RUN)/model.json  ## the one-cycle training; goes on where it was stopped
ifdef KEPT
$(RUN)/model.json: | kept
else
$(RUN)/model.json: $(S)/train.code $(S)/prepared $(S)/split $(S)/input $(S)/augment $(S)/model $(S)/train $(S)/seed $(if $(AUTO_LR),$(RUN)/lr_find.json) $(call unless_there,model)
	$(PY) train.py --params="$(SETTINGS)"
endif
kept:  # refuses a finished model of other settings, tiles or code, also under -n
	+@$(PY) stamps.py --keep --params="$(SETTINGS)"

ifneq ($(if $(TILE),,$(and $(filter predict,$(MAKECMDGOALS)),$(EXTRA))),)
$(error error: EXTRA: expected TILE too, whose extra raster it is)
endif
ifneq ($(if $(TILE),,$(and $(filter predict,$(MAKECMDGOALS)),$(AOI))),)
$(error error: AOI: expected TILE too, whose area of interest it is)
endif
ifdef TILE
predict: tile $(RUN)/model.json
	$(PY) predict.py --params="$(SETTINGS)" --tile="$$TILE" $(if $(EXTRA),--extra="$$EXTRA") $(if $(AOI),--aoi="$$AOI") $(if $(SCHEDULER),--scheduler="$$SCHEDULER")
else
predict: $(S)/predicted  ## class maps of the test tiles, or of TILE=
endif
tile: $(ENVIRONMENT)  # refuses a TILE that is not there, before a model is trained for it
	@$(PY) predict.py --check --params="$(SETTINGS)" --tile="$$TILE" $(if $(EXTRA),--extra="$$EXTRA") $(if $(AOI),--aoi="$$AOI")
$(S)/predicted: $(S)/predict.code $(RUN)/model.json $(S)/data $(S)/split $(S)/raw $(S)/input $(S)/predict $(call unless_there,predicted)
	$(PY) predict.py --params="$(SETTINGS)" $(if $(SCHEDULER),--scheduler="$$SCHEDULER")
	@touch "$@"

evaluate: $(RUN)/metrics.json  ## scores of the class maps
$(RUN)/metrics.json: $(S)/evaluate.code $(S)/predicted $(S)/input $(S)/evaluate $(call unless_there,scores)
	$(PY) evaluate.py --params="$(SETTINGS)"

report: $(RUN)/report.html  ## figures and one HTML page: the whole chain
	@echo "open file://$$PWD/$<"
$(RUN)/report.html: $(S)/report.code $(RUN)/metrics.json $(if $(AUTO_LR),$(RUN)/lr_find.json,$(wildcard $(RUN)/lr_find.json)) $(S)/input $(S)/augment $(S)/report $(call unless_there,page)
	$(PY) report.py --params="$(SETTINGS)"

# -- beside the chain

figures: $(ENVIRONMENT)  ## figures and page again, from the results as they stand
	$(PY) report.py --params="$$PARAMS"

compare: $(ENVIRONMENT)  ## all runs side by side, and the settings in which they differ
	@$(PY) compare.py --params="$$PARAMS"

seeds: $(ENVIRONMENT)  ## N=3 runs of the same settings with seeds of their own, each to its report; then all compared
	@$(PY) compare.py --seeds="$$N" --params="$$PARAMS"
	@$(MAKE) --no-print-directory report
	@set -e; for file in "$(RUN)"/seeds/*.yaml; do [ ! -e "$$file" ] || $(MAKE) --no-print-directory report PARAMS="$$file"; done
	@$(PY) compare.py --params="$$PARAMS"

params: $(ENVIRONMENT)  ## the settings as resolved, and what differs from params.yaml
	@$(PY) compare.py --show --params="$$PARAMS"

model: $(ENVIRONMENT)  ## parameters and GFLOP per patch of the settings' network, and with each pretrained encoder
	@$(PY) model.py --params="$$PARAMS"

test: $(ENVIRONMENT)  ## every test, two files of them at a time
	$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

faults: $(ENVIRONMENT)  ## kill and starve every step at every write; damaged files by the thousand: about 40 minutes
	$(PY) tests/faults.py
	$(PY) tests/fuzz.py

clean:  ## remove this run's results (runs/<name of PARAMS>), and nothing else
	rm -rf "$(RUN)"
