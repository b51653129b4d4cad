"""Many runs: planned as a list, launched by submitit, watched until they have ended.

`plan` makes the list from configs, methods and seeds; `job` is what runs one of them, wherever;
`executors` starts jobs on this machine or on Slurm and asks what became of them; `conductor`
decides what is done, lost or to be tried again, from files alone, so that it can be stopped at
any time; `table` shows it.
"""
