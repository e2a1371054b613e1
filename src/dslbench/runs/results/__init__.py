"""Results as data: a folder of small files, one for each published run, which anyone can check.

`submission` is what a file holds, `command` the line that makes its run, `folder` the files and their
index, `check` what must be true of them.
"""
