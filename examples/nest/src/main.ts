import 'reflect-metadata';
import { NestFactory } from '@nestjs/core';
import { AppModule } from './app.module';
import { GreetingController } from './greeting.controller';

/** Put the application together and greet once, without a network. */
async function check(): Promise<void> {
  const app = await NestFactory.create(AppModule, { logger: false });
  await app.init();
  console.log(app.get(GreetingController).greet('cairn').message);
  await app.close();
}

async function serve(): Promise<void> {
  const app = await NestFactory.create(AppModule);
  app.enableShutdownHooks();
  await app.listen(Number(process.env.PORT ?? 3000));
}

const run = process.argv.includes('--check') ? check : serve;
run().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
