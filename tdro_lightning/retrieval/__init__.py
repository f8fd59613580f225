GREATEST_GRADE = 100  # of a judgement; the library of the measures ends the process at huge ones
