"""Good small files, spoilt by chance, through the doors that people use: each is accepted or refused in a sentence, quickly.

    python -m tests.fuzz --kind h5ad|checkpoint|zip|vcc --n 1000 --seed 0

`mutate` spoils bytes and structures, `subjects` makes the good files and opens the spoilt ones, `trial` opens each in a child with limits.
"""
