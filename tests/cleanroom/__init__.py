"""The clean room: follows the documentation's pages literally, and says where they are wrong.

    python -m tests.cleanroom                                # README.md and docs/tutorials/*.md
    python -m tests.cleanroom docs/tutorials/lint.md
    python -m tests.cleanroom --update docs/tutorials/lint.md

Pages are followed in an empty home folder, in a copy of the checkout (what git tracks, and what is
new and not ignored) and a new virtual environment, with bash. What a page may hold:

- ```` ```console ````: lines that begin with "$ " are run (one that ends in a backslash goes on in
  the next), the lines below have to be their output, stdout and stderr as on a terminal of 80
  columns. A command has to succeed, unless the next one is `echo $?`. A line "..." stands for one
  or more lines that are left out, and " ..." at a line's end for the rest of that line. What may
  differ between two runs is in `matching.RULES`, and nothing else may. pip prints only errors.
- ```` ```sh ````: each line is run and has to succeed; its output is not shown.
- ```` ```LANGUAGE title="NAME" ````: the reader saves it as NAME, which the text before names.
- ```` ```python ```` without a title: run as a script of its own.
- Other blocks are for reading only; they are counted.
- "*Not run for this page: REASON.*" at the end of the paragraph above a block: it is not run, but
  listed.

A page's commands share one folder and one environment, as in one terminal. HTML comments say what
the reader brings along:

- `<!-- cleanroom: after PAGE -->`: goes on in the environment in which PAGE, beside it, ended.
- `<!-- cleanroom: given FILE.py -->` above a block: FILE.py of tests/cleanroom/given/ makes what
  the reader has. Before a python block it is the beginning of the same script. Before commands it
  is run in a new folder, in which the commands run, too; with `given FILE.py, each` every command
  gets a copy of that folder, and with `given FILE.py, here` it is run in the page's own folder.
"""
