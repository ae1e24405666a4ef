"""Go's text/template: as much of the language as chat templates use, with limits.

`program.compile_template(text)` gives a `Program`, `Program.execute(run, values)` its output. The
pieces in the order of their work: `lexer.py` tokens, `pipelines.py` and `parser.py` a tree
(`nodes.py`), `expressions.py` and `compiler.py` the tree as closures, `functions.py` what templates
may call, `values.py` how Go prints, compares and encodes. Knows nothing of chats.
"""
