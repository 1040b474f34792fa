/* ingest.h - the stage that turns media bytes into frames at the model's size. */
#pragma once
#include "services/stage/stage.h"

extern const struct stage ingest_stage;
