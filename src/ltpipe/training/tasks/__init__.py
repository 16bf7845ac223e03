"""The tasks, one file each: `my_task.py` is the task `my-task` of the configuration; its last line names the class."""
