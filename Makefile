# Thin names over tools/; each works as the first command on a fresh clone.

.PHONY: help run test test-system test-browser check bench image clean

help:
	@echo "make run     serve the built-in model and ask it a question"
	@echo "make test    run all tests"
	@echo "make test-system  as root: power cuts on a disk of its own, and long kill tests"
	@echo "make test-browser  what Chromium sees"
	@echo "make check   lint, types, import rules"
	@echo "make bench   measure speed against llama.cpp's own tools, Transformers and vLLM"
	@echo "make image BOARD=minipc  a disk image (minipc or rpi); see images/README.md"

run:
	@tools/setup run
	@tools/run

test:
	@tools/setup dev
	@.venv/bin/python -m pytest -n auto --dist loadfile $(ARGS)

test-system:
	@tools/setup dev
	@.venv/bin/python -m pytest tests/system $(ARGS)

test-browser:
	@tools/setup dev
	@.venv/bin/python -m pytest tests/browser $(ARGS)

check:
	@tools/setup dev
	@tools/check

bench:
	@tools/setup dev
	@.venv/bin/python tests/bench $(ARGS)

image: SIGNED = $(if $(SIGN),--sign $(SIGN))
image:
	@tools/setup dev
	@wheels=$${WHEELHOUSE:-$$(tools/wheelhouse --arch $(if $(filter rpi,$(BOARD)),arm64,amd64) --python 3.11 --out build $(SIGNED))} \
	  && .venv/bin/python images/build $(BOARD) --wheelhouse "$$wheels" $(SIGNED) $(ARGS)

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
